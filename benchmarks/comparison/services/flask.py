"""The tutorials' way: a forward pass per request, in a Flask view."""

from flask import Flask, Response, jsonify, request

from comparison.workloads import service

app = Flask(__name__)
answer = service()


@app.post("/predict")
def predict() -> Response:
    (output,) = answer([request.get_json()["input"]])
    return jsonify({"output": output})
