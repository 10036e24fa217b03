"""Tables, figures, verdicts and pages of what was measured."""
