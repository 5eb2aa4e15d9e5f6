-- Up Migration

-- The message as which a message of server custody was said anew, whose status is from then on the status of both for their sender. Null: as none. Written by encryption, with
-- the successor's row.
ALTER TABLE messaging_commands ADD COLUMN successor_id uuid;
