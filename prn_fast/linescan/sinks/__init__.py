"""Where defects go: files, MQTT, OPC UA, a web server, a function; each sink in a thread of its own."""

from prn_fast.linescan.sinks.base import Sink
from prn_fast.linescan.sinks.callback import CallbackSink
from prn_fast.linescan.sinks.crops import CropSink
from prn_fast.linescan.sinks.json_lines import JSONLinesSink
from prn_fast.linescan.sinks.mqtt import MQTTSink
from prn_fast.linescan.sinks.opcua import OPCUASink
from prn_fast.linescan.sinks.parquet import ParquetSink
from prn_fast.linescan.sinks.webhook import WebhookSink

__all__ = [
    "CallbackSink",
    "CropSink",
    "JSONLinesSink",
    "MQTTSink",
    "OPCUASink",
    "ParquetSink",
    "Sink",
    "WebhookSink",
]
