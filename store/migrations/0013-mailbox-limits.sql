-- Up Migration

-- Written by queuing: every item of the mailbox up to here is to be evicted, or has ended before. Nothing is asked for twice.
ALTER TABLE messaging_mailboxes ADD COLUMN evicted_seq bigint NOT NULL DEFAULT 0;

-- What has waited too long is found without reading mailboxes. The third index of a hot table: rows come nearly in its order, so an insert goes to
-- its right end, the cheapest place there is (docs/decisions/0028).
CREATE INDEX messaging_queue_expiry ON messaging_queue (expires_at);
