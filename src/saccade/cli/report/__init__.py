"""``saccade report``: gathers what runs have left in their folders into ``report.json``, shown by ``report.html``.

Every number comes from a file of a run. What a run's files do not hold is in the report as missing, with the reason
and, where there is one, the command that gets it.
"""
