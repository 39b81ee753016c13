"""What AWS SAM makes of a template: reads ``{"template", "parameters"}`` from stdin, writes CloudFormation's JSON.

A program of its own, as SAM's packages are no dependencies of the tests: PYTHONPATH is ``.tools/sam``.
"""

from __future__ import annotations

import json
import sys

from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
from samtranslator.yaml_helper import yaml_parse

given = json.load(sys.stdin)
template = yaml_parse(given["template"])
defaults = {name: one["Default"] for name, one in template.get("Parameters", {}).items() if "Default" in one}
translator = Translator({}, Parser())
made = translator.translate(template, {**defaults, **given["parameters"]}, feature_toggle=None)
json.dump(made, sys.stdout)
