-- Up Migration

-- Commands of server custody that were discarded before they were encrypted: what their senders find when they ask. Written by encryption only. A command that has a row
-- in messaging_commands was encrypted after all: its row here says nothing any more. A partition a day (store/message-days.ts).
CREATE TABLE messaging_discarded (
  sender_id    text COLLATE "C" NOT NULL,
  message_id   uuid   NOT NULL,
  recipient_id text COLLATE "C" NOT NULL,
  code         text   NOT NULL,
  discarded_at bigint NOT NULL,
  PRIMARY KEY (sender_id, message_id)
) PARTITION BY RANGE (message_id);
