"""What people read of evaluations: reports with tables and figures, and pages of episodes."""
