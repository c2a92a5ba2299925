"""Prints what SAM makes of a template, and the project's plain templates as they are, as one JSON object:
{"root": <CloudFormation>, "source": <the SAM template>, "nested": {<file name>: <CloudFormation>, ...}}.

Run with the Python that has aws-sam-cli: translate.py <template.yaml> <nested.yaml>...
Needs no account and no network; intrinsic functions come out in their long form.
"""

import copy
import json
import os
import sys

from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse


class NoManagedPolicies:
    """Stands where SAM would ask IAM for the list of managed policies, which the template uses none of."""

    def load(self):
        return {}


def read(path):
    with open(path, encoding="utf-8") as file:
        return yaml_parse(file.read())


def translated(source):
    template = copy.deepcopy(source)
    # What `sam package` does before SAM's translator sees a template: artefacts are in S3.
    packaged = {"Bucket": "artefacts", "Key": "code.zip"}
    template["Globals"]["Function"]["CodeUri"] = packaged
    for resource in template["Resources"].values():
        resource.pop("Metadata", None)
        if "CodeUri" in resource.get("Properties", {}):
            resource["Properties"]["CodeUri"] = packaged
    return transform(template, {}, NoManagedPolicies())


def main():
    # The translator names the region in some of what it makes.
    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
    root, *nested = sys.argv[1:]
    source = read(root)
    found = {
        "root": translated(source),
        "source": source,
        "nested": {os.path.basename(path): read(path) for path in nested},
    }
    json.dump(found, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
