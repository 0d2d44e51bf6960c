"""Go on, look at this, or stop: one verdict from every diagnostic that the inputs allow."""
