"""The HTML report: one file that shows a compiled model, opens offline, and asks nobody anything.

subject.py   what a report is about: graphs, records, plan, texts, times
stages.py    the graph after every pass, as a list of nodes and what each pass changed
weights.py   params as histograms, and the filters of first layers as pictures
kernels.py   the plan's steps with times, bounds and texts; the arena
page.py      all of it as JSON in one page, with the front end beside it
style.css, js/*.js   the front end: plain modules, which page.py joins as they are
vendor/      dagre, which lays graphs out
"""

from cnnir.report.html.page import page
from cnnir.report.html.subject import Subject

__all__ = ["Subject", "page"]
