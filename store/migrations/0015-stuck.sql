-- Up Migration

-- What operators look for, without reading mailboxes. Only rows with a mark are in these indexes, and nearly none has one. Of messages also those that
-- have ended since: a predicate on how they ended would make every acknowledgement write all indexes (docs/decisions/0030).
CREATE INDEX messaging_queue_aside ON messaging_queue (aside_at, recipient_id, sender_id, item_id) WHERE aside_at IS NOT NULL;
CREATE INDEX messaging_messages_undeliverable ON messaging_messages (undeliverable_at, recipient_id, sender_id, message_id)
  WHERE undeliverable_at IS NOT NULL;
