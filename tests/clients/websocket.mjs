// A WebSocket echo by Node's own `WebSocket`, which tunnels through the proxy when
// NODE_USE_ENV_PROXY=1. Usage: websocket.mjs URL AUTHORIZATION MESSAGE…; reports as in seen.py.
const [url, authorization, ...messages] = process.argv.slice(2);
const received = [];
// `headers` is Node's own addition: browsers give no way to send one.
const socket = new WebSocket(url, { headers: { authorization } });
const deadline = setTimeout(() => finish({ error: 'timeout', detail: 'no echo within 30 s' }, 1), 30_000);

socket.onopen = () => messages.forEach((message) => socket.send(message));
// The event tells nothing of a refusal's status: `no 101` is all that Node lets a program know.
socket.onerror = (event) => finish({ error: 'WebSocketError', detail: event.message || 'no 101' }, 1);
socket.onmessage = (event) => {
  received.push(event.data);
  if (received.length < messages.length) return;
  socket.close();
  finish({ client: `node ${process.version}`, received }, 0);
};

function finish(line, status) {
  clearTimeout(deadline);
  console.log(JSON.stringify(line));
  process.exit(status);
}
