"""The Hydra configs of aelm, shipped as the package ``aelm.conf``."""
