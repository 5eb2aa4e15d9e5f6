-- Up Migration

-- What a message of server custody said (content: sealed, until it has ended), to say it anew; in repair of which message, as which time; and when its
-- recipient's request may be answered.
ALTER TABLE messaging_commands
  ADD COLUMN content bytea,
  ADD COLUMN first_id uuid,
  ADD COLUMN repairs smallint NOT NULL DEFAULT 0,
  ADD COLUMN repair_at bigint;

ALTER TABLE messaging_commands ALTER COLUMN content SET STORAGE EXTERNAL;

-- What is sealed anew each day is walked through in the order of its key (0009).
CREATE INDEX messaging_commands_sealed ON messaging_commands (sender_id, message_id) WHERE content IS NOT NULL;

-- Messages to agents of server custody that did not open, and the asking for them anew. A partition a day (store/message-days.ts).
CREATE TABLE messaging_failed (
  recipient_id  text COLLATE "C" NOT NULL,
  sender_id     text COLLATE "C" NOT NULL,
  message_id    uuid  NOT NULL,
  code          text  NOT NULL,
  -- Of the failed envelope.
  session_id    bytea NOT NULL,
  dh_public_key bytea NOT NULL,
  -- The item id of the request.
  request_id    uuid  NOT NULL,
  asked         integer NOT NULL,
  ask_at        bigint  NOT NULL,
  PRIMARY KEY (recipient_id, sender_id, message_id)
) PARTITION BY RANGE (message_id);

-- Requests to say a message anew: few, and found without reading the mailboxes.
CREATE INDEX messaging_queue_retries ON messaging_queue (recipient_id, seq) WHERE kind = 'retry';
