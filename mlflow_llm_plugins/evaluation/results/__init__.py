"""What an evaluation leaves behind: the table of its rows, figures of the run, plots."""
