"""Models that act: screens, navigation, manipulation."""
