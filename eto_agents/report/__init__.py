"""Reports for people: tables and figures of runs, and pages that replay their episodes."""
