-- Up Migration

-- An operator's suspension is ended by an operator only. It may hold beside the owner's.
ALTER TABLE messaging_agents ADD COLUMN suspended_by_operator boolean NOT NULL DEFAULT false;
