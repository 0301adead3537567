"""One spelling for each thing: constants are constants, views are Reshape or Transpose."""
