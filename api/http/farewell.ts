/** The last words over a socket whose client is not trusted to close it. */
import type { Duplex } from "node:stream";

/** For a client to read them, and to close its side. */
const GRACE_MS = 1_000;

/**
 * Sends the text and closes the socket, whatever the client does: what it still sends is not looked at. At once destroyed, a socket with bytes
 * that nobody read would be reset, and the text lost on its way (RFC 9112 §9.6).
 */
export function sayAndClose(socket: Duplex, text: string): void {
  const timer = setTimeout(() => socket.destroy(), GRACE_MS);
  socket.once("close", () => clearTimeout(timer));
  socket.end(text);
  socket.resume();
}
