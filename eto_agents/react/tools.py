"""The tool with which an agent acts where it calls tools instead of writing "Action: …"."""

from __future__ import annotations

from typing import Final

from eto_agents.trajectory import Tool

ACT: Final[Tool] = {
    "type": "function",
    "function": {
        "name": "act",
        "description": "Do one thing in the world, and get what happens or what you see.",
        "parameters": {
            "type": "object",
            "properties": {
                "action": {
                    "type": "string",
                    "description": "One command, in the form that the instruction describes.",
                }
            },
            "required": ["action"],
        },
    },
}
