"""LavaBeam: the product around pipelines, trainer and schemas: the command line, the demo, the published recipes."""
