//! Rules as data: the YAML format of `rules/<area>/<id>.yml`, parsed, checked and compiled.
