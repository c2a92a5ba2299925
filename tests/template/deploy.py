"""Makes the project's stack in an AWS emulator, out of the templates as they are, and prints what came of it as one JSON
object: {"outputs": {name: value}, "functions": {binary: {"role": name, "environment": {...}}}, "roles": {logical name:
[policy, ...]}, "routes": [[method, path, binary], ...], "unknown_url": [status, body], "left_out": [[what, why], ...],
"made": {type: how many}}.

Run with the Python that has aws-sam-cli, from the project's root: deploy.py ENDPOINT STACK [PARAMETER=VALUE ...]
"""

import io
import json
import os
import sys
import time
import zipfile

import boto3
from translate import read, translated

# What the emulator cannot make, and what stands in its place: a resource that is nothing, so that references to it hold.
STAND_IN = {"Type": "AWS::CloudFormation::WaitConditionHandle"}


def beyond_the_emulator(resource):
    """Why the emulator cannot make a resource, or None."""
    if resource["Type"] == "AWS::CloudWatch::Alarm" and "Metrics" in resource["Properties"]:
        return "alarms on metric math"
    if resource["Type"].startswith("AWS::CodeDeploy::"):
        return "releases by CodeDeploy"
    return None


def without_the_impossible(file, template, left_out):
    for name, resource in template["Resources"].items():
        why = beyond_the_emulator(resource)
        if why:
            left_out.append([f"{file}: {name}", why])
            kept = {"Condition": resource["Condition"]} if "Condition" in resource else {}
            template["Resources"][name] = {**STAND_IN, **kept}
    return template


class Emulator:
    def __init__(self, endpoint):
        self.endpoint = endpoint

    def client(self, service):
        return boto3.client(service, endpoint_url=self.endpoint)

    def upload(self, key, content):
        self.client("s3").put_object(Bucket="artefacts", Key=key, Body=content)
        return f"{self.endpoint}/artefacts/{key}"

    def create(self, stack, template, parameters):
        cloudformation = self.client("cloudformation")
        cloudformation.create_stack(
            StackName=stack,
            TemplateURL=self.upload("template.json", json.dumps(template)),
            Capabilities=["CAPABILITY_IAM"],
            Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()],
        )
        while True:
            [about] = cloudformation.describe_stacks(StackName=stack)["Stacks"]
            if not about["StackStatus"].endswith("_IN_PROGRESS"):
                break
            time.sleep(0.05)
        if about["StackStatus"] != "CREATE_COMPLETE":
            stacks = cloudformation.describe_stacks()["Stacks"]
            sys.exit("\n".join(f"{s['StackName']}: {s['StackStatus']} {s.get('StackStatusReason', '')}" for s in stacks))
        return about

    def resources(self):
        cloudformation = self.client("cloudformation")
        for stack in cloudformation.describe_stacks()["Stacks"]:
            yield from cloudformation.describe_stack_resources(StackName=stack["StackName"])["StackResources"]

    def policies(self, role):
        iam = self.client("iam")
        names = iam.list_role_policies(RoleName=role)["PolicyNames"]
        return [iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"] for name in names]


def routes(source, root):
    """Every route of the API with the binary that serves it."""
    kind = "AWS::Serverless::Function"
    functions = {n: r for n, r in source["Resources"].items() if r["Type"] == kind and "BuildMethod" in r["Metadata"]}
    for path, methods in root["Resources"]["Api"]["Properties"]["Body"]["paths"].items():
        for method, about in methods.items():
            uri = about["x-amazon-apigateway-integration"]["uri"]["Fn::Sub"]
            [name] = [name for name in functions if f"${{{name}Aliaslive}}" in uri]
            yield method.upper(), path, functions[name]["Metadata"]["BuildProperties"]["Binary"]


def unknown_url(root):
    """What the gateway answers where it has no route."""
    answers = root["Resources"]["Api"]["Properties"]["Body"]["x-amazon-apigateway-gateway-responses"]
    answer = answers["MISSING_AUTHENTICATION_TOKEN"]
    return answer["statusCode"], answer["responseTemplates"]["application/json"]


def main():
    endpoint, stack, *given = sys.argv[1:]
    emulator = Emulator(endpoint)
    emulator.client("s3").create_bucket(Bucket="artefacts")
    # Nothing runs there: the tests start the functions themselves.
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("bootstrap", "")
    emulator.upload("code.zip", archive.getvalue())

    source = read("template.yaml")
    left_out = []
    root = without_the_impossible("template.yaml", translated(source), left_out)
    for resource in root["Resources"].values():
        if resource["Type"] == "AWS::CloudFormation::Stack":
            path = resource["Properties"]["TemplateURL"]
            nested = without_the_impossible(path, read(path), left_out)
            resource["Properties"]["TemplateURL"] = emulator.upload(path, json.dumps(nested))
    about = emulator.create(stack, root, dict(pair.split("=", 1) for pair in given))

    resources = list(emulator.resources())
    named = {resource["LogicalResourceId"]: resource["PhysicalResourceId"] for resource in resources}
    roles = {r["LogicalResourceId"]: r["PhysicalResourceId"] for r in resources if r["ResourceType"] == "AWS::IAM::Role"}
    functions = {}
    for name, resource in source["Resources"].items():
        # Those that are ours: built, not brought along as they are.
        if resource["Type"] != "AWS::Serverless::Function" or "BuildMethod" not in resource["Metadata"]:
            continue
        made = emulator.client("lambda").get_function_configuration(FunctionName=named[name])
        [role] = [logical for logical, physical in roles.items() if made["Role"].endswith(f"/{physical}")]
        binary = resource["Metadata"]["BuildProperties"]["Binary"]
        environment = made["Environment"]["Variables"]
        functions[binary] = {"role": role, "environment": environment}
    made = {}
    for resource in resources:
        made[resource["ResourceType"]] = made.get(resource["ResourceType"], 0) + 1
    print(
        json.dumps(
            {
                "outputs": {output["OutputKey"]: output["OutputValue"] for output in about.get("Outputs", [])},
                "functions": functions,
                "roles": {logical: emulator.policies(physical) for logical, physical in roles.items()},
                "routes": list(routes(source, root)),
                "unknown_url": unknown_url(root),
                "left_out": left_out,
                "made": made,
            }
        )
    )


if __name__ == "__main__":
    main()
