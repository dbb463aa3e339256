"""Where features run: the lab (:mod:`steps.lab.lab`) or the live site (:mod:`steps.targets.live`)."""
