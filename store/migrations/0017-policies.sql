-- Up Migration

-- Who may message an agent. No row: everybody whom it has not blocked.
CREATE TABLE messaging_policies (
  agent_id   text COLLATE "C" PRIMARY KEY,
  policy     text   NOT NULL CHECK (policy IN ('open', 'contacts', 'allow-list')),
  changed_at bigint NOT NULL
);

-- Whom an agent lets in, and whom it keeps out: at most 10,000 on each list (store/policies.ts).
CREATE TABLE messaging_policy_lists (
  agent_id text COLLATE "C" NOT NULL,
  list     text   NOT NULL CHECK (list IN ('allow', 'block')),
  peer_id  text COLLATE "C" NOT NULL,
  added_at bigint NOT NULL,
  PRIMARY KEY (agent_id, list, peer_id)
);

-- Two rows a pair, as each of the two sees it, written together: requested and pending, accepted and accepted, refused and declined (store/contacts.ts).
CREATE TABLE messaging_contacts (
  agent_id   text COLLATE "C" NOT NULL,
  peer_id    text COLLATE "C" NOT NULL,
  state      text   NOT NULL CHECK (state IN ('requested', 'pending', 'accepted', 'refused', 'declined')),
  changed_at bigint NOT NULL,
  PRIMARY KEY (agent_id, peer_id)
);

-- What waits for an agent is listed and counted without reading its contacts.
CREATE INDEX messaging_contacts_state ON messaging_contacts (agent_id, state, peer_id);
