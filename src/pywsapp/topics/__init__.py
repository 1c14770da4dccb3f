"""Topics: publish and subscribe within a process, and across processes and machines."""

from pywsapp._topic_actions import TopicAction
from pywsapp.topics.history.recovery import Recovery
from pywsapp.topics.history.rules import Publication
from pywsapp.topics.names import TopicPattern
from pywsapp.topics.presence.topic_presence import PresenceDiff, Present
from pywsapp.topics.registry import TopicRegistry
from pywsapp.topics.rules import TopicRules
from pywsapp.topics.topic import Topic
from pywsapp.topics.topic_stats import TopicStats
from pywsapp.topics.users.users import UserConnections, Users

__all__ = [
    "PresenceDiff",
    "Present",
    "Publication",
    "Recovery",
    "Topic",
    "TopicAction",
    "TopicPattern",
    "TopicRegistry",
    "TopicRules",
    "TopicStats",
    "UserConnections",
    "Users",
]
