"""Small predictions, answered without aiohttp's request, handler and task: half of what they cost.

What is not small, or not a plain prediction, is handed over to aiohttp with its connection.
"""
