"""The report: what there is to tell about a run (`content`), on a page (`page`) or in a terminal (`terminal`)."""
