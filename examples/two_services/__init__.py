"""Two services that trust nobody but each other, by four kinds of YAML. `python -m examples.two_services`."""
