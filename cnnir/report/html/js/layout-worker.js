// Places the nodes of a graph, off the page's own thread; dagre stands before this in its script.
//
// Networks are long: almost all of them fall into pieces at nodes that everything passes through.
// Pieces are laid out one by one, so the time grows with the length, not with its square, and deep
// chains need no deep recursion. Edges that jump over very many ranks are left out of the layout
// and drawn as they come, since every rank that they cross would cost a node.

const PIECE = 24; // nodes; smaller neighbours are laid out together
const NARROW = 4; // edges; a larger piece is also cut where only so many jump over a node
const LARGEST = 60; // nodes; a piece without any cut is cut anyway
const NEAR = 5; // ranks; an edge up to so long is always laid out
const CROSSINGS = 60; // ranks that the longer edges of a piece may cross in all

const DRIFT = 130; // how far from the middle a piece's centre may be

const known = new Map(); // pieces that were laid out

onmessage = ({ data: { sizes, edges } }) => {
  const { at, routes } = layOut(sizes, edges);
  postMessage({ at, routes }, [at.buffer]);
};

/** Centres (x, y by node) and, for each edge, its corners; null where it goes straight. */
function layOut(sizes, edges) {
  const order = sorted(sizes.length, edges);
  const place = new Int32Array(sizes.length);
  order.forEach((node, position) => (place[node] = position));
  const at = new Float32Array(2 * sizes.length);
  const routes = edges.map(() => null);
  let bottom = 0;
  let hinge = null;
  for (const nodes of pieces(order, place, edges)) {
    const piece = laidOut(nodes, sizes, edges, place);
    const fixed = hinge !== null && piece.at.has(hinge) ? piece.at.get(hinge) : null;
    const dx = middled(piece, fixed ? at[2 * hinge] - fixed[0] : beneath(piece, edges, at));
    const dy = fixed ? at[2 * hinge + 1] - fixed[1] : bottom;
    for (const [node, [x, y]] of piece.at) {
      if (fixed && node === hinge) continue;
      at[2 * node] = x + dx;
      at[2 * node + 1] = y + dy;
    }
    for (const [edge, points] of piece.routes) {
      routes[edge] = points.flatMap(({ x, y }) => [x + dx, y + dy]);
    }
    bottom = dy + piece.height + 40;
    hinge = nodes[nodes.length - 1];
  }
  return { at, routes };
}

/** A shift that leaves the piece's centre near the middle, so that long graphs do not drift. */
function middled(piece, dx) {
  const places = [...piece.at.values()];
  const centre = dx + places.reduce((sum, [x]) => sum + x, 0) / places.length;
  return dx - centre + Math.max(-DRIFT, Math.min(DRIFT, centre));
}

/** How far to the right a piece stands best under those before it that it reads from. */
function beneath(piece, edges, at) {
  const shifts = edges
    .filter(([a, b]) => piece.at.has(b) && !piece.at.has(a) && (at[2 * a] || at[2 * a + 1]))
    .map(([a, b]) => at[2 * a] - piece.at.get(b)[0]);
  return shifts.length ? shifts.reduce((sum, x) => sum + x, 0) / shifts.length : -piece.width / 2;
}

/** Nodes by rank, so that what is side by side stays together; sources just before their first
 * reader. Where there is no cycle every edge leads on. */
function sorted(count, edges) {
  const after = Array.from({ length: count }, () => []);
  const waits = new Int32Array(count);
  for (const [a, b] of edges) {
    after[a].push(b);
    waits[b] += 1;
  }
  const ready = [];
  for (let node = 0; node < count; node += 1) if (!waits[node]) ready.push(node);
  const sources = ready.filter((node) => after[node].length);
  const rank = new Float64Array(count);
  let least = 0;
  for (let k = 0; k < count; k += 1) {
    while (k === ready.length) {
      // a cycle: the first node of it goes first
      if (waits[least] > 0) ready.push(least);
      waits[least] = 0;
      least += 1;
    }
    for (const next of after[ready[k]]) {
      if (!waits[next]) continue;
      rank[next] = Math.max(rank[next], rank[ready[k]] + 1);
      waits[next] -= 1;
      if (!waits[next]) ready.push(next);
    }
  }
  for (const node of sources) rank[node] = Math.min(...after[node].map((next) => rank[next])) - 0.5;
  return Array.from({ length: count }, (_, node) => node).sort(
    (a, b) => rank[a] - rank[b] || a - b,
  );
}

/** Runs of the order; the last node of one, where all passes through it, is the first of the next. */
function pieces(order, place, edges) {
  const jumps = new Int32Array(order.length + 1);
  for (const [a, b] of edges) {
    const [low, high] = [Math.min(place[a], place[b]), Math.max(place[a], place[b])];
    jumps[low + 1] += 1;
    jumps[high] -= 1;
  }
  const found = [];
  let start = 0;
  let over = 0;
  let shared = false;
  for (let k = 0; k < order.length; k += 1) {
    over += jumps[k];
    const size = k - start + 1;
    const fits = over === 0 ? size >= PIECE : size >= (over <= NARROW ? 3 * PIECE : LARGEST);
    if (fits || k === order.length - 1) {
      if (size > 1 || !shared) found.push(order.slice(start, k + 1));
      shared = over === 0;
      start = shared ? k : k + 1;
    }
  }
  return found;
}

/** A piece by itself. Networks repeat themselves, so equal pieces are laid out once. */
function laidOut(nodes, sizes, edges, place) {
  const index = new Map(nodes.map((node, k) => [node, k]));
  const own = [];
  edges.forEach(([a, b], edge) => {
    if (index.has(a) && index.has(b) && a !== b) own.push(edge);
  });
  const local = own.map((edge) => edges[edge].map((node) => index.get(node)));
  const boxes = nodes.map((node) => sizes[node]);
  const key = JSON.stringify([boxes, local]);
  if (!known.has(key)) known.set(key, byDagre(boxes, local));
  const { at, routes, width, height } = known.get(key);
  return {
    at: new Map(nodes.map((node, k) => [node, at[k]])),
    routes: routes.map(([k, points]) => [own[k], points]),
    width,
    height,
  };
}

/** Nodes 0, 1, ... in an order in which edges lead on. */
function byDagre(boxes, edges) {
  const graph = new dagre.graphlib.Graph({ multigraph: true });
  graph.setGraph({
    rankdir: "TB",
    nodesep: 22,
    edgesep: 14,
    ranksep: 30,
    ranker: "network-simplex",
  });
  boxes.forEach(([width, height], k) => graph.setNode(String(k), { width, height }));
  for (const edge of affordable(boxes.length, edges)) {
    const [a, b] = edges[edge];
    graph.setEdge(String(a), String(b), { weight: b - a === 1 ? 2 : 1 }, String(edge));
  }
  dagre.layout(graph);
  const { width, height } = graph.graph();
  return {
    at: boxes.map((_, k) => [graph.node(String(k)).x, graph.node(String(k)).y]),
    routes: graph.edges().map((edge) => [Number(edge.name), graph.edge(edge).points]),
    width: width || 0,
    height: height || 0,
  };
}

/** The edges of a piece without the longest ones, where together they cross too many ranks. */
function affordable(count, edges) {
  const rank = new Int32Array(count);
  const order = edges.map((_, edge) => edge).sort((p, q) => edges[p][0] - edges[q][0]);
  for (const edge of order) {
    const [a, b] = edges[edge];
    rank[b] = Math.max(rank[b], rank[a] + 1);
  }
  const span = (edge) => Math.abs(rank[edges[edge][1]] - rank[edges[edge][0]]);
  const kept = order.sort((p, q) => span(p) - span(q));
  let crossed = kept.reduce((sum, edge) => sum + (span(edge) > NEAR ? span(edge) : 0), 0);
  while (crossed > CROSSINGS) crossed -= span(kept.pop());
  return kept;
}
