"""The lab: a small internet and real nodes on one machine."""
