"""How fast the handler is, beside kazoo's own: ``python -m tests.benchmarks --help``.

=====================  ===============================================================
``measure``            samples, rounds, medians
``subjects``           the two handlers, and clients with them on one server
``rows``               the work that is compared on a real server
``raw``                what the server gives: a socket that only counts the replies
``floor``              what kazoo's own protocol code costs
``one_thread``         what any handler can reach: kazoo's protocol in one thread
``figures``            results, workers, select, wake-ups; growth; memory
``idle``               what a client that does nothing does
``peers``, ``peer``    other handlers and clients, each in a process of its own
``apache``             one of them, Apache's C client
``report``             the tables and the JSON
``chart``, ``readme``  the SVG, and the tables of ``README.rst``
``program``            the command
=====================  ===============================================================
"""
