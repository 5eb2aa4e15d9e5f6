-- Up Migration

-- Delegations that their issuers took back (store/delegations.ts). Kept for good.
CREATE TABLE messaging_revoked_delegations (
  issuer_id    text COLLATE "C" NOT NULL,
  -- jti: unique among the issuer's.
  token_id     text COLLATE "C" NOT NULL,
  revoked_at   bigint NOT NULL,
  PRIMARY KEY (issuer_id, token_id)
);

-- The chain under which its sender presented a command: an array of {issuerId, tokenId}; null where there was none. It goes on with every envelope.
ALTER TABLE messaging_commands ADD COLUMN delegation jsonb;
