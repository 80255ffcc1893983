"""The HTML report: one self-contained page of one or several results, or of an audit.

Nothing is fetched: style, script, plots and numbers are in the page, and its content security
policy lets no other script run, whatever stands in a result.
"""

from .page import html_report

__all__ = ["html_report"]
