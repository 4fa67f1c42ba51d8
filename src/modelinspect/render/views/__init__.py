"""
Views: one function a report, report to sheet. A command imports the one that it shows.
"""
