"""Makes ``tiny-base``, the pretrained model of a million parameters that comes with the package.

``python -m eto_agents.pretrain --out FOLDER`` makes it again, in about two hours on one core.
It has read what the worlds say, not how tasks are solved.
"""
