"""The player: a page on which a schedule is stepped through and broken; page.py composes it from the files here."""

from npdp.report.player.page import Page as Page
from npdp.report.player.page import page as page
