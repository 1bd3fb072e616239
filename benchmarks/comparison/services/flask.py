"""The tutorials' way: a forward pass per request, in a Flask view."""

from comparison.workloads import service
from flask import Flask, Response, jsonify, request

app = Flask(__name__)
answer = service()


@app.post("/predict")
def predict() -> Response:
    (output,) = answer([request.get_json()["input"]])
    return jsonify({"output": output})
