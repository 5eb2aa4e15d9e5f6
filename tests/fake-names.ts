/**
 * A DNS server on this machine, which knows what a test says and keeps what it was asked.
 */
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { isIPv6 } from "node:net";

/** Addresses of a name; `silent`: no answer at all; `broken`: SERVFAIL for the one family. Other names do not exist. */
export type Names = Readonly<
  Record<string, readonly string[] | "silent" | { readonly broken: 4 | 6; readonly other: string }>
>;

export interface FakeNames {
  /** As a resolver's server. */
  readonly server: string;
  /** `4 name` or `6 name`, in order. */
  readonly asked: readonly string[];
  close(): Promise<void>;
}

const typeA = 1;
const typeAaaa = 28;

export async function openFakeNames(names: Names): Promise<FakeNames> {
  const asked: string[] = [];
  const socket = createSocket("udp4");
  socket.on("message", (query, { port, address }) => {
    const { name, end } = nameIn(query);
    const family = query.readUInt16BE(end) === typeAaaa ? 6 : 4;
    asked.push(`${family} ${name}`);
    const known = names[name];
    if (known === "silent") return;
    socket.send(answerTo(query, end + 4, family, known), port, address);
  });
  socket.bind(0, "127.0.0.1");
  await once(socket, "listening");
  return {
    server: `127.0.0.1:${socket.address().port}`,
    asked,
    close: () => new Promise((resolve) => socket.close(() => resolve())),
  };
}

function nameIn(query: Buffer): { readonly name: string; readonly end: number } {
  const labels: string[] = [];
  let at = 12;
  for (let length = query[at] ?? 0; length > 0; length = query[at] ?? 0) {
    labels.push(query.toString("ascii", at + 1, at + 1 + length));
    at += 1 + length;
  }
  return { name: labels.join(".").toLowerCase(), end: at + 1 };
}

/** RFC 1035 §4.1: header, the question as it came, one record for each address of the family. */
function answerTo(query: Buffer, questionEnd: number, family: 4 | 6, known: Names[string] | undefined): Buffer {
  const isBroken = typeof known === "object" && "broken" in known && known.broken === family;
  const listed = known === undefined || known === "silent" ? [] : "broken" in known ? [known.other] : known;
  const addresses = isBroken ? [] : listed.filter((address) => isIPv6(address) === (family === 6));
  const records = addresses.map((address) => {
    const data = family === 4 ? Buffer.from(address.split(".").map(Number)) : ipv6Bytes(address);
    const head = Buffer.from([0xc0, 0x0c, 0, family === 4 ? typeA : typeAaaa, 0, 1, 0, 0, 0, 60, 0, data.length]);
    return Buffer.concat([head, data]);
  });
  const header = Buffer.alloc(12);
  header.writeUInt16BE(query.readUInt16BE(0), 0);
  // An answer, recursion wanted and there; NOERROR, SERVFAIL or NXDOMAIN.
  header.writeUInt16BE(0x8180 | (isBroken ? 2 : known === undefined ? 3 : 0), 2);
  header.writeUInt16BE(1, 4);
  header.writeUInt16BE(records.length, 6);
  return Buffer.concat([header, query.subarray(12, questionEnd), ...records]);
}

function ipv6Bytes(address: string): Buffer {
  const [front = "", back = ""] = address.split("::");
  const groups = (text: string) => (text === "" ? [] : text.split(":").map((group) => Number.parseInt(group, 16)));
  const [head, tail] = [groups(front), groups(back)];
  const bytes = Buffer.alloc(16);
  for (const [index, group] of head.entries()) bytes.writeUInt16BE(group, 2 * index);
  for (const [index, group] of tail.entries()) bytes.writeUInt16BE(group, 16 - 2 * (tail.length - index));
  return bytes;
}
