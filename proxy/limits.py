"""Every bound of the product that is not a setting: its unit in the name, one line of reason, and nothing else.

A number that limits a queue, a cache, a retry or a wait lives here or in a setting, never in the code that obeys it.
"""

from typing import Final

# one connection
#: A CONNECT holds at most five 64 KiB strings; real ones are under 16 KiB, and it comes from nobody we know yet.
CONNECT_BYTES_MAX: Final = 65_536
#: A PROXY header of version 2 behind its first 16 bytes. HAProxy's has some 200 with TLS, a name and an id.
PROXY_HEADER_BYTES_MAX: Final = 4_096
#: What a held connection may have parsed ahead, so that its PINGREQ is found; more is left to TCP.
HELD_BYTES_MAX: Final = 16_384
#: What a packet that is set aside costs beside its bytes (measured with tracemalloc: 100 B).
HELD_PACKET_OVERHEAD_BYTES: Final = 100
#: Topic names whose decision a connection remembers. Devices use a handful; a random one only costs itself.
TOPICS_CACHED_PER_CONNECTION_MAX: Final = 32
#: Bytes that wait for a device to read them before we stop taking its packets.
WRITE_BUFFER_BYTES_MAX: Final = 65_536
#: Silence after which the kernel asks whether a device's host is still there.
TCP_KEEPALIVE_IDLE_SECONDS: Final = 300
#: How long a closed connection may take to read its last bytes.
CLOSE_LINGER_SECONDS: Final = 5.0
#: A text in a packet has two bytes for its length.
MQTT_TEXT_BYTES_MAX: Final = 65_535
#: How often deadlines (CONNECT, keep alive, close) are looked at; the most they can be late.
TICK_SECONDS: Final = 0.5
#: Connections that are resumed in one turn of the event loop after back-pressure.
RESUMES_PER_TURN_MAX: Final = 200
#: Devices that are told to go, each second: what the replicas they turn to accept without a queue.
GOODBYES_PER_SECOND: Final = 500.0
#: Likewise in a drain, where nothing presses: so many connects cost all who take part half a core, beside the messages.
DRAIN_GOODBYES_PER_SECOND: Final = 200.0
#: How often some of them are told.
GOODBYE_TICK_SECONDS: Final = 0.05
#: What HAProxy has to ask twice in, so that it knows before the first device is let go: `agent-inter` is 1 s.
AGENT_NOTICE_SECONDS: Final = 2.5
#: Who has not asked for so long does not ask any more, and is not waited for.
AGENT_SILENCE_SECONDS: Final = 10.0
#: Questions that wait in the kernel: of a few load balancers, one a second each.
AGENT_BACKLOG: Final = 64
#: How often a replica looks whether it has more than its share of the devices.
REBALANCE_LOOK_SECONDS: Final = 1.0
#: So long no replica may have come or gone, and no count have moved: devices are back after a break by then.
REBALANCE_STEADY_SECONDS: Final = 10.0
#: Share of the mean by which a count may move in that time: devices come and go every day.
REBALANCE_STIR: Final = 0.02
#: A replica lets go of devices above this many times the mean; a hash is even to some 5 %.
REBALANCE_ABOVE: Final = 1.1
#: And above what chance makes of a hash: this many times the square root of the mean.
REBALANCE_DEVIATIONS: Final = 3.0
#: How long a balancer takes to send devices to a replica that has said that it serves: two checks, one a second.
REBALANCE_NOTICE_SECONDS: Final = 3.0
#: Devices that one replica sends home, each second: a fifth of what the others accept without a queue.
REBALANCE_PER_SECOND: Final = 100
#: How long a device that is sent home may wait for its acknowledgements.
REBALANCE_GOODBYE_SECONDS: Final = 10.0
#: Connections that wait in the kernel to be accepted; a fleet that comes back at once is larger than the default 100.
LISTEN_BACKLOG: Final = 4_096

# routing
#: Levels of a topic that a rule can speak of: of its filter, and `${topic.N}`; real topics have less than ten.
TOPIC_LEVELS_NAMED_MAX: Final = 128
#: The longest name that Kafka gives a topic.
KAFKA_TOPIC_CHARACTERS_MAX: Final = 249
#: Rules of one table; with so many a topic name that is seen first costs tens of microseconds.
ROUTING_RULES_MAX: Final = 20_000
#: Targets of one rule: each is one more record, and one more that the PUBACK waits for.
TARGETS_PER_RULE_MAX: Final = 16
#: Records that the partitioner `sticky` gives one partition before it goes on: enough to fill batches.
STICKY_RECORDS: Final = 500
#: What all regular expressions together may use of memory while they are matched; RE2's default for one.
REGEX_MEMORY_BYTES_MAX: Final = 67_108_864

# the process
#: Objects made between two looks for garbage in cycles (Python's default, 700, costs a quarter of the CPU of a message
#: at 1 000 connections); messages leave no cycles behind.
GC_THRESHOLDS: Final = (50_000, 20, 50)

# the Kafka gateway
#: A batch as Kafka sees it: far below any max.message.bytes, large enough that its cost is its records'.
BATCH_BYTES_MAX: Final = 262_144
#: Records of one batch; bounds what one settled batch does in one turn of the event loop.
BATCH_RECORDS_MAX: Final = 2_000
#: So many batches a second start at once (4 % of a core at 0.3 ms each); beyond that they wait for a common tick.
FREE_BATCHES_PER_SECOND: Final = 120.0
#: Batches that may start at once after a pause.
FREE_BATCHES_BURST: Final = 20
#: The common tick; the most that pacing delays a record.
BATCH_TICK_SECONDS: Final = 0.02
#: Shares of `kafka.queue_bytes_max`: above the high one no PUBLISH is taken until the queue is below the low one.
HIGH_WATER: Final = 0.75
LOW_WATER: Final = 0.5
#: Producers of one gateway: one per topic, so that a sick topic does not hold up the others; then they are shared.
PRODUCERS_MAX: Final = 32
#: A producer is replaced at most this often.
PRODUCER_REPLACE_SECONDS_MIN: Final = 1.0
#: Time for a discarded producer to let go of its connections.
PRODUCER_STOP_SECONDS_MAX: Final = 1.0
#: What the end takes after the devices have gone when Kafka does not answer: a last flush, and then twice the above.
STOP_SECONDS: Final = 3.0
#: One Kafka request; also what a frozen broker costs.
KAFKA_REQUEST_SECONDS_MAX: Final = 5.0
#: How often a flush looks whether everything is settled.
FLUSH_POLL_SECONDS: Final = 0.01
#: Questions for metadata, of one producer, are at least this far apart.
METADATA_GAP_SECONDS: Final = 0.1
#: Pause before a refused batch is offered again.
RETRY_SECONDS: Final = 1.0
#: How often the cluster is asked whether it is there.
PROBE_SECONDS: Final = 2.0
#: Kafka counts as unreachable when neither a probe nor a batch has succeeded for this long.
KAFKA_SILENCE_SECONDS_MAX: Final = 8.0
#: Time in which a further cluster may say at start what is wrong with its settings; later it can only be logged.
CLUSTER_START_SECONDS: Final = 5.0
#: Pause before a further cluster with settings that do not fit is tried again.
CLUSTER_RETRY_SECONDS: Final = 30.0
#: How often a topic that was just created is looked at until its partitions are there.
TOPIC_CREATION_POLL_SECONDS: Final = 0.1
#: Partitions and size limits of the topics are read again this often.
TOPIC_REFRESH_SECONDS: Final = 300.0
#: What a waiting record costs in memory beside key and value. By tracemalloc on CPython 3.11: 225 B with headers that
#: are shared, 407 B with mqtt.dup and mqtt.packet_id of its own, 479 B with all that a message can have of its own.
RECORD_OVERHEAD_BYTES: Final = 480
#: Of a record: topic name, client id and user name, each at most 64 KiB long, and some short ones. No record has more.
HEADER_BYTES_MAX: Final = 200_000
#: Headers of one record; a 5.0 device can put a hundred thousand user properties into one packet.
HEADERS_PER_RECORD_MAX: Final = 256
#: What a header that only one record has costs in memory beside its name and value: a tuple and two objects.
HEADER_OVERHEAD_BYTES: Final = 160
#: Kafka's own framing of a record and a batch, kept free below max.message.bytes.
KAFKA_FRAMING_BYTES: Final = 1_024
#: One request for a token.
TOKEN_REQUEST_SECONDS_MAX: Final = 5.0
#: A token is renewed after this share of its life; the rest of it outlasts an endpoint that is away for a while.
TOKEN_RENEWAL_SHARE: Final = 0.8
#: The life of a token whose endpoint does not say: short, because a new one costs one request.
TOKEN_SECONDS_DEFAULT: Final = 300
#: How much of what a peer says of an error is repeated; the rest is no sentence any more.
PEER_WORDS_MAX: Final = 200
#: Names of topics that Kafka does not know, or not yet, for which records wait; devices may have a part in them.
UNKNOWN_TOPICS_MAX: Final = 200
#: Share of `kafka.queue_bytes_max` that such records may have; the rest is for those that can be sent.
UNKNOWN_TOPICS_SHARE: Final = 0.25
#: Topics in use that no setting names. A partition that is written to costs 3 KB and a task, a topic maybe a producer.
LEARNED_TOPICS_MAX: Final = 500
#: After so long without a record a learned topic is let go, with its tasks and its producer.
LEARNED_TOPIC_IDLE_SECONDS: Final = 600.0
#: What a dead letter holds of a value that is too large for its topic too: enough to see what it was.
DEAD_LETTER_VALUE_BYTES_MAX: Final = 65_536
#: What a dead letter tells of the error; the longest that we write ourselves is some 400 bytes.
DEAD_LETTER_ERROR_BYTES_MAX: Final = 1_024

# authentication
#: Cost of a new password: with these two one check takes 5.0 ms of a core (median of 200), 6 MiB while it runs.
ARGON2_PASSES: Final = 2
ARGON2_MEMORY_KIB: Final = 6_144
#: The dearest hash that a password file may hold, so that one line cannot take all memory or seconds per login.
ARGON2_PASSES_MAX: Final = 10
ARGON2_MEMORY_KIB_MAX: Final = 65_536
#: Threads that check passwords: 343 checks a second on two idle cores; more would take the event loop's core.
LOGIN_WORKERS: Final = 2
#: Logins that wait for their check: the last waits 3 s on idle cores, which a device still does; the next hears "busy".
LOGINS_WAITING_MAX: Final = 1_000
#: Verified logins that are remembered, so that a fleet that reconnects at once is not checked again; 9 MB when full.
LOGINS_REMEMBERED_MAX: Final = 65_536

# the operator's door
#: Time for HTTP answers to be read at shutdown.
ADMIN_STOP_SECONDS_MAX: Final = 2
#: The head of a request: a client identifier of 64 KiB in its path, percent-encoded, and as much again.
ADMIN_HEAD_BYTES_MAX: Final = 524_288
#: What a list is filtered by; real names are shorter.
ADMIN_FILTER_CHARACTERS_MAX: Final = 1_024
#: The `next` of a page: a client identifier of 64 KiB in base64.
ADMIN_CURSOR_CHARACTERS_MAX: Final = 90_000
#: A body: the largest payload in base64, and room for what stands around it.
ADMIN_BODY_BYTES_MAX: Final = 2_097_152
#: Time in which it has to arrive.
ADMIN_BODY_SECONDS_MAX: Final = 10.0
#: Requests that are worked on at a time; most of them wait for a device or for Kafka, each with a body at the most.
ADMIN_REQUESTS_MAX: Final = 64
#: Entries of one page: a thousand clients are half a megabyte of JSON.
ADMIN_PAGE_DEFAULT: Final = 100
ADMIN_PAGE_MAX: Final = 1_000
#: Clients that are looked at for one page (5 us each); whoever looks for a rare one asks for several pages.
ADMIN_SCAN_MAX: Final = 20_000
#: Of those in one turn of the event loop.
ADMIN_SCAN_PER_TURN: Final = 200
#: User properties of a message; a device may have little memory.
ADMIN_USER_PROPERTIES_MAX: Final = 64
#: Ten years: what is meant to last longer has no end.
ADMIN_SECONDS_MAX: Final = 315_360_000
#: Tokens: each request is compared with all of them.
ADMIN_TOKENS_MAX: Final = 100
#: What `mqk` waits for an answer; a command waits for its devices.
ADMIN_CLIENT_SECONDS_MAX: Final = 120.0

# bans
#: All of them are in the memory of each replica, 0.4 kB each (tracemalloc); a firewall is the place for more.
BANS_MAX: Final = 10_000
BAN_VALUE_CHARACTERS_MAX: Final = 1_024
BAN_REASON_CHARACTERS_MAX: Final = 500
#: A ban that is not read back by then is not known to be in force.
BAN_WRITE_SECONDS_MAX: Final = 10.0
#: How often expired bans are taken out of Kafka; they count no more from their last second on.
BAN_SWEEP_SECONDS: Final = 30.0

# the session log
#: Its partitions are what can be swept and announced in parallel.
SESSION_PARTITIONS_MIN: Final = 12
#: A broker answers a fetch at the latest after this, so a reader that hears nothing for longer knows it is cut off.
LOG_FETCH_WAIT_MS: Final = 500
LOG_POLL_MS: Final = 1_000
#: How late a reader notices that a topic has more partitions.
LOG_METADATA_MS: Final = 30_000
#: Of one partition in one answer.
LOG_FETCH_BYTES: Final = 1_048_576
#: Records that are taken in at a time; bounds what one batch does in one turn of the event loop.
LOG_BATCH_RECORDS_MAX: Final = 500
#: How often a long replay says how far it is.
REPLAY_PROGRESS_SECONDS: Final = 2.0
#: A CLAIM that is not read back by then closes its connection; a device waits about as long for its CONNACK.
CLAIM_SECONDS_MAX: Final = 10.0
#: How often a replica says that it is alive, and the silence after which the others take it for dead.
NODE_HEARTBEAT_SECONDS: Final = 2.0
NODE_SILENCE_SECONDS_MAX: Final = 10.0
#: A silence of the reader itself after which it counts anew: a broker answers fetches every half second.
NODE_READER_SILENCE_SECONDS: Final = 2.5
#: Likewise when its own heartbeats do not come back: two of them.
NODE_OWN_SILENCE_SECONDS: Final = 4.5
#: A member of the sweepers' group that is silent so long loses its turn.
TURN_SESSION_SECONDS: Final = 10.0
TURN_HEARTBEAT_SECONDS: Final = 3.0
#: How often work that is a sweeper's is looked for, and its marks are committed.
SWEEP_SECONDS: Final = 1.0
#: How often expired sessions are looked for.
EXPIRY_SWEEP_SECONDS: Final = 60.0
#: A session is ended by a sweeper this long after its time, so that its clock may differ from Kafka's.
EXPIRY_MARGIN_SECONDS: Final = 60.0
#: Entries that a sweep looks at in one turn of the event loop.
SWEEP_ENTRIES_PER_TURN: Final = 2_000
#: How often a replica asks how far the others' sweepers have announced.
MARKS_SECONDS: Final = 5.0
#: Announcements of one partition that are on their way to Kafka at a time.
ANNOUNCEMENTS_IN_FLIGHT_MAX: Final = 500
#: At shutdown, for the ends of our own connections to be read back and announced.
LAST_ANNOUNCEMENTS_SECONDS: Final = 3.0
#: Announcements of one partition that a replica remembers for a sweeper that does not announce them (200 B each). Above
#: it announces them itself: repeats do no harm, a loss would.
ANNOUNCEMENTS_KEPT_MAX: Final = 20_000

# access control
#: Rules of one file; each takes half a kilobyte.
ACL_RULES_MAX: Final = 50_000
#: Those of them that are asked about everybody: a topic name that is seen first costs a millisecond with so many.
ACL_RULES_FOR_ALL_MAX: Final = 1_000

# the way back
#: Subscriptions of one client, and the bytes of their filters: its session state has to fit into one record.
SUBSCRIPTIONS_PER_CLIENT_MAX: Final = 100
SUBSCRIPTION_BYTES_PER_CLIENT_MAX: Final = 16_384
#: Levels of a topic filter; a look-up goes as deep.
SUBSCRIPTION_LEVELS_MAX: Final = 128
#: Messages that one device has not acknowledged, whatever its Receive Maximum is; then they wait.
DOWNLINK_IN_FLIGHT_MAX: Final = 100
#: Messages that wait for one device; the next one hears `queue_full`.
DOWNLINK_QUEUE_MAX: Final = 1_000
#: Messages that wait for all devices of a replica, in bytes; one that many devices wait for counts once.
DOWNLINK_QUEUE_BYTES_MAX: Final = 67_108_864
#: What a waiting message costs beside topic and payload, and once more for each device.
DOWNLINK_MESSAGE_OVERHEAD_BYTES: Final = 400
#: Devices that are written to in one turn of the event loop.
DOWNLINK_DEVICES_PER_TURN_MAX: Final = 200
#: Clients that one kick disconnects at once; more are paced, as at a shutdown.
KICKS_AT_ONCE_MAX: Final = 100

# several replicas on one host
#: How often a replica tells its supervisor that its event loop turns.
WORKER_BEAT_SECONDS: Final = 1.0
#: Silence after which a replica counts as hung and is replaced; the others take it for dead after half of that.
WORKER_SILENCE_SECONDS_MAX: Final = 20
#: Time beyond `node.drain_seconds` in which a replica may end, before it is killed.
WORKER_STOP_SECONDS: Final = 5
#: Time to end for those that were told to stop at once.
WORKER_STOP_AT_ONCE_SECONDS: Final = 2.0
#: Two starts in one slot are at least so far apart: what cannot run is not started all the time.
WORKER_PAUSE_SECONDS_MIN: Final = 1.0
WORKER_PAUSE_SECONDS_MAX: Final = 30.0
#: After so long since its start, a replica that ends is no longer one that cannot run. Above the longest pause.
WORKER_STEADY_SECONDS: Final = 60.0
#: How long a start waits for the ports of its slot, which a process of before may still hold.
WORKER_PORTS_SECONDS_MAX: Final = 5.0
#: What a replica can say of why it cannot start: a list of topics and the commands that create them fits.
WORKER_COMPLAINT_BYTES_MAX: Final = 65_536

# commands
#: Commands of one replica that are not settled: the reader waits, HTTP is refused. At 2 000/s, of which every tenth
#: client never acknowledges, 6 000 wait for their time.
COMMANDS_IN_FLIGHT_MAX: Final = 20_000
#: Of one client: more than a device takes in in the time that it has, so that a silent one leaves room for others.
COMMANDS_PER_CLIENT_MAX: Final = 1_000
#: Records of one partition that are settled but stand behind one that is not; 40 s of 2 000/s.
COMMANDS_UNCOMMITTED_MAX: Final = 80_000
#: How often a message is sent, each time to another connection of a client that moves.
COMMAND_TRIES_MAX: Final = 3
#: How long a client that has left may take to turn up elsewhere.
COMMAND_LOOK_AGAIN_SECONDS: Final = 0.5
#: For the answer of a replica, beside what a device is given: one that is silent for 10 s is dead.
COMMAND_ANSWER_SECONDS_MAX: Final = 15.0
#: A name that a sender gives his command.
COMMAND_ID_BYTES_MAX: Final = 256
#: Records that are taken in at a time; bounds what one batch does in one turn of the event loop.
COMMAND_BATCH_RECORDS_MAX: Final = 200
#: Who has read commands or letters reads on after this, so that there are many to read when many come.
COMMAND_GATHER_SECONDS: Final = 0.004
#: How often the reader looks whether it is its turn, whether there is room, and what can be committed.
COMMAND_POLL_SECONDS: Final = 0.2
COMMAND_COMMIT_SECONDS: Final = 1.0
COMMAND_PAUSE_SECONDS: Final = 0.02
#: Time for what is under way when partitions go to another replica; then they are read again there.
COMMAND_REVOKE_SECONDS_MAX: Final = 3.0
#: Clients that one result names: 64 KiB of names of the usual length.
RESULT_CLIENTS_MAX: Final = 1_000

# letters between replicas
#: What one message between replicas may have: a record that Kafka takes by default, and what goes around it.
INBOX_MESSAGE_BYTES_MAX: Final = 1_000_000
#: A letter that has so much is sent, and another one begun.
INBOX_LETTER_BYTES: Final = 131_072
#: Letters are so far apart, so that each carries many messages when there are many: one costs 1 ms of CPU here, there
#: and at the broker together. For answers nobody waits but a result, so they take more time.
INBOX_GAP_SECONDS: Final = 0.006
INBOX_ANSWER_GAP_SECONDS: Final = 0.025
#: Clients in one message of an answer: 64 KiB names of the longest kind would not fit into a record, usual ones do.
INBOX_CLIENTS_PER_MESSAGE: Final = 500
#: How long a letter is kept; nobody reads one that is older than its command.
INBOX_RETENTION_MS: Final = 600_000
#: Replicas share these; a node reads one of them.
INBOX_PARTITIONS: Final = 64
