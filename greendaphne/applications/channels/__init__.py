"""Channel layers: requests and frames become messages, replies become responses and frames.

``application`` puts the parts together.  ``layer_client`` sends, ``router`` receives, ``notifier`` sends disconnect messages, ``watch``
knows when the layer may have lost something, ``reply_queue`` holds replies for one client, ``bodies`` holds request bodies, ``http`` and
``websocket`` each hold one client's conversation, ``inline`` runs workers inside the server, ``probe`` and ``meter`` are for monitoring.
"""
