"""Asks a new version of `front` two questions before it gets any traffic, and tells CodeDeploy whether it may.

Called by CodeDeploy with the ids of the deployment; the version is in the environment. In Python, because nothing else of the
project calls these two services: the runtime brings their clients along.
"""

import json
import os

import boto3


# Of the right form, and of nobody.
KEY = "Bearer ps_preflight_preflight"


def ask(method, path, body=None):
    """What the version answers to a request of API Gateway's form: status and body."""
    headers = {"content-type": "application/json", "authorization": KEY}
    event = {
        "resource": path,
        "path": path,
        "httpMethod": method,
        "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "queryStringParameters": None,
        "multiValueQueryStringParameters": None,
        "pathParameters": None,
        "stageVariables": None,
        "requestContext": {
            "stage": "preflight",
            "path": path,
            "resourcePath": path,
            "httpMethod": method,
            "identity": {},
            "requestId": "preflight",
        },
        "body": body,
        "isBase64Encoded": False,
    }
    answer = boto3.client("lambda").invoke(FunctionName=os.environ["NEW_VERSION"], Payload=json.dumps(event))
    payload = answer["Payload"].read()
    if "FunctionError" in answer:
        raise RuntimeError(f"{method} {path}: {payload[:500]!r}")
    # Status and headers as JSON, eight NUL bytes, then the body.
    prelude, _, body = payload.partition(bytes(8))
    return json.loads(prelude)["statusCode"], json.loads(body)


def check():
    """Stops with what is wrong."""
    status, _ = ask("GET", "/healthz")
    if status != 200:
        raise RuntimeError(f"GET /healthz: {status}")
    # Goes through the door to the store of keys, and out again in our form. A question that is answered would have a machine
    # started for it where there is none.
    question = {"model": "none", "messages": [{"role": "user", "content": "?"}]}
    status, body = ask("POST", "/v1/chat/completions", json.dumps(question))
    if (status, body["error"]["code"]) != (401, "invalid_api_key"):
        raise RuntimeError(f"POST /v1/chat/completions with a key of nobody: {status} {body}")


def handler(event, _context):
    status = "Failed"
    try:
        check()
        status = "Succeeded"
    finally:
        boto3.client("codedeploy").put_lifecycle_event_hook_execution_status(
            deploymentId=event["DeploymentId"],
            lifecycleEventHookExecutionId=event["LifecycleEventHookExecutionId"],
            status=status,
        )
    return status
