"""Errors that name the culprit. All are ``ValueError``: the caller gave something that cannot be used."""


class SaccadeError(ValueError):
    """Base class of errors a user can cause; the command line prints them as one line and exits with code 2."""


class ConfigError(SaccadeError):
    """A setting has an unknown name, a wrong type or a value out of range; the message starts with its dotted path."""


class DataError(SaccadeError):
    """A data file cannot be used; the message names file, row, field, what was found and what was expected."""


class ContractError(SaccadeError):
    """A policy, environment, reward or feed returned something its contract forbids."""


class CapabilityError(SaccadeError):
    """An objective, advantage or metric needs something the chosen policy does not provide."""


class CheckpointError(SaccadeError):
    """A checkpoint is missing, damaged or belongs to another recipe."""
