"""Every setting, the ways in which it is given, and what is said when it is wrong.

What never belongs here: what a setting does. The rooms that obey one are handed plain values by the composition root
and do not import this.
"""

from proxy.config.describe import Row, describe
from proxy.config.kafka import KafkaClient, KafkaCluster
from proxy.config.migrate import migrate
from proxy.config.problems import ConfigErrors
from proxy.config.settings import Settings, changed
from proxy.config.sources import Loaded, load, masked
from proxy.config.values import split_address

__all__ = [
    "ConfigErrors",
    "KafkaClient",
    "KafkaCluster",
    "Loaded",
    "Row",
    "Settings",
    "changed",
    "describe",
    "load",
    "masked",
    "migrate",
    "split_address",
]
