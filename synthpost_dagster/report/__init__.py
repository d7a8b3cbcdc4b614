"""The report: what it says (`data`), its pictures (`figures`) and the page (`page`)."""
