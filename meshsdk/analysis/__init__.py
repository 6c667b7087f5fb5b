"""What is wrong with a configuration, and what is hardly meant: `meshsdk check`.

Enters: files and folders, as people keep them. Leaves: a `Report` of findings, each with its rule, place and cure. A
running Mesh has no part in it: what it logs of a folder is what the embedded control plane says, which is found here
as well.

    rules        the kinds of findings
    findings     a finding, its place, and the report
    sources      which files are configuration, and which must be rendered first
    objects      what stands in them, tolerantly; places
    told         what the embedded control plane says, as findings
    destinations, reach, hosts, serving, selecting, mutual_tls   objects together
    analysis     all of it
"""

from .analysis import analyze
from .findings import Finding, LeftOut, Place, Report
from .rules import RULES, Rule, Severity

__all__ = ["RULES", "Finding", "LeftOut", "Place", "Report", "Rule", "Severity", "analyze"]
