"""`flover doctor`: looks at a machine, a Triton server and a model repository before they are put to use.

Needs the package's base alone; what must be asked of torch is asked in the engine's interpreter. Changes nothing.
"""
