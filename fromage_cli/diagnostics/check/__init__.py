"""Is my run healthy: go on, look at this, or stop?

Every diagnostic that the inputs allow is asked, the cheapest first, and each layer is held against its siblings.
"""
