"""Shapes of Nginx configurations as people have them in front of Qdrant, and what becomes of each when the gate is put in.

``works``: the gate goes in, users are answered as before, and it comes out byte for byte. ``refused``: it says why, with file and
line, and touches nothing. The report (``docs/nginx-shapes.md``) is made of this table: ``python -m tests.gate.shapes``.
In the texts OLD is the old server's address, A and B are addresses to listen on, ROOT is the folder of nginx.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cutover.gate import nginx_conf, ways
from cutover.gate.servers import Server

PLAIN = "server { listen A; location / { proxy_pass http://OLD; } }\n"


@dataclass(frozen=True)
class Door:
    """A way by which users come in: ``at`` is A or B, ``path`` goes before Qdrant's paths."""

    at: str = "A"
    path: str = ""
    host: str = ""
    tls: bool = False
    auth: tuple[str, str] | None = None


@dataclass(frozen=True)
class Shape:
    """One configuration. ``files``: below nginx's folder; ``main``: what stands in `http` beside the lab's lines; ``top``: beside
    `http`. ``refused``: a part of the sentence where it is refused.
    """

    name: str
    files: Mapping[str, str]
    refused: str = ""
    doors: Sequence[Door] = field(default_factory=lambda: (Door(),))
    main: str = "include conf.d/*.conf;"
    top: str = ""
    resolves: Mapping[str, str] = field(default_factory=dict)
    real: bool = True  # this machine's nginx can be tried with it


def conf(text: str, **more: str) -> dict[str, str]:
    """One file in conf.d, and others (``__`` for a slash, ``_`` before the last part for a dot)."""
    return {"conf.d/q.conf": text, **{name.replace("__", "/").replace("_dot_", "."): value for name, value in more.items()}}


NPM_PROXY = """add_header X-Served-By $host;
proxy_set_header Host $host;
proxy_set_header X-Forwarded-Scheme $scheme;
proxy_set_header X-Forwarded-Proto  $scheme;
proxy_set_header X-Forwarded-For    $proxy_add_x_forwarded_for;
proxy_set_header X-Real-IP          $remote_addr;
proxy_pass       $forward_scheme://$server:$port$request_uri;
"""
NPM_HOST = """# ------------------------------------------------------------
# qdrant.home.arpa
# ------------------------------------------------------------
map $scheme $hsts_header {
    https   "max-age=63072000; preload";
}
server {
  set $forward_scheme http;
  set $server         "OLDHOST";
  set $port           OLDPORT;
  listen A;
  server_name qdrant.home.arpa;
  location / {
    # Proxy!
    include conf.d/include/proxy.conf;
  }
}
"""

SHAPES: list[Shape] = [
    Shape("a plain location", conf(PLAIN)),
    Shape("a slash behind the address", conf("server { listen A; location / { proxy_pass http://OLD/; } }")),
    Shape(
        "under a path, rewritten",
        conf("server { listen A; location /qdrant/ { proxy_pass http://OLD/; } }"),
        doors=(Door(path="/qdrant"),),
    ),
    Shape(
        "under a path by rewrite",
        conf("server { listen A; location /q { rewrite ^/q/(.*) /$1 break; proxy_pass http://OLD; } }"),
        doors=(Door(path="/q"),),
    ),
    Shape(
        "under a path, a key injected, a limit",
        conf(
            'limit_conn_zone $binary_remote_addr zone=perip:1m; server { listen A; location /qdrant/ { proxy_set_header api-key "k"; '
            "limit_conn perip 50; proxy_pass http://OLD/; } }"
        ),
        doors=(Door(path="/qdrant"),),
    ),
    Shape("a regular expression", conf("server { listen A; location ~ ^/(collections|cluster|$) { proxy_pass http://OLD; } }")),
    Shape(
        "locations for reads and writes",
        conf(
            "server { listen A; location / { proxy_pass http://OLD; } location /collections/ { proxy_pass http://OLD/collections/; } }"
        ),
    ),
    Shape(
        "nested locations",
        conf("server { listen A; location / { location /collections { proxy_pass http://OLD; } proxy_pass http://OLD; } }"),
    ),
    Shape(
        "two virtual hosts",
        conf(
            "server { listen A; server_name a.x; location / { proxy_pass http://OLD; } }\n"
            "server { listen A; server_name b.x; location / { proxy_pass http://OLD; } }"
        ),
        doors=(Door(host="a.x"), Door(host="b.x")),
    ),
    Shape(
        "two files, two ports",
        conf(PLAIN, conf_dot_d__z_dot_conf="server { listen B; location /v/ { proxy_pass http://OLD/; } }"),
        doors=(Door(), Door("B", "/v")),
    ),
    Shape("an upstream", conf("upstream q { server OLD; } server { listen A; location / { proxy_pass http://q; } }")),
    Shape(
        "an upstream in another file, kept connections",
        conf(
            'server { listen A; location / { proxy_http_version 1.1; proxy_set_header Connection ""; proxy_pass http://qdrant; } }',
            conf_dot_d__up_dot_conf="upstream qdrant {\n    server OLD max_fails=3 fail_timeout=10s;   # Qdrant\n    keepalive 16;\n}\n",
        ),
    ),
    Shape(
        "an upstream by a variable",
        conf("upstream q { server OLD; } server { listen A; set $to q; location / { proxy_pass http://$to; } }"),
    ),
    Shape(
        "a map to the address",
        conf("map $http_host $b { default OLD; }\nserver { listen A; location / { proxy_pass http://$b; } }"),
    ),
    Shape(
        "a map between two servers",
        conf(
            "map $uri $b { ~^/vllm 127.0.0.1:9; default OLD; }\nserver { listen A; location / { proxy_pass http://$b$request_uri; } }"
        ),
    ),
    Shape("$request_uri behind the address", conf("server { listen A; location / { proxy_pass http://OLD$request_uri; } }")),
    Shape("set with the whole URL", conf("server { listen A; location / { set $u http://OLD; proxy_pass $u; } }")),
    Shape("set in server", conf("server { listen A; set $u OLD; location / { proxy_pass http://$u; } }")),
    Shape(
        "set in an if",
        conf('server { listen A; location / { set $u OLD; if ($arg_x = "1") { set $u OLD; } proxy_pass http://$u; } }'),
    ),
    Shape(
        "host and port apart",
        conf("server { listen A; set $h OLDHOST; set $p OLDPORT; location / { proxy_pass http://$h:$p; } }"),
    ),
    Shape(
        "Nginx Proxy Manager's file",
        {"conf.d/proxy_host/1.conf": NPM_HOST, "conf.d/include/proxy.conf": NPM_PROXY},
        main="include conf.d/*.conf; include conf.d/proxy_host/*.conf;",
    ),
    Shape(
        "geo", conf("geo $b { default OLD; 10.9.0.0/16 127.0.0.1:9; } server { listen A; location / { proxy_pass http://$b; } }")
    ),
    Shape(
        "split_clients",
        conf('split_clients "$remote_addr" $b { 100% OLD; } server { listen A; location / { proxy_pass http://$b; } }'),
    ),
    Shape("braces around a variable", conf("server { listen A; set $u OLD; location / { proxy_pass http://${u}; } }")),
    Shape("quotes", conf('server { listen A; location / { proxy_pass "http://OLD"; } }')),
    Shape(
        "a host name",
        conf("server { listen A; location / { proxy_pass http://qd.test:OLDPORT; } }"),
        resolves={"qd.test": "OLDHOST"},
        real=False,
    ),
    Shape(
        "a host name in an upstream",
        conf("upstream q { server qd.test:OLDPORT; } server { listen A; location / { proxy_pass http://q; } }"),
        resolves={"qd.test": "OLDHOST"},
        real=False,
    ),
    Shape(
        "include proxy_params",
        conf(
            "server { listen A; location / { include proxy_params; proxy_pass http://OLD; } }",
            proxy_params="proxy_set_header Host $http_host;\nproxy_set_header X-Real-IP $remote_addr;\nproxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n",
        ),
    ),
    Shape(
        "the proxy_pass in a snippet",
        conf("server { listen A; include snippets/q.conf; }", snippets__q_dot_conf="location / { proxy_pass http://OLD; }\n"),
    ),
    Shape(
        "one snippet for two servers",
        conf(
            "server { listen A; include snippets/q.conf; } server { listen B; include snippets/q.conf; }",
            snippets__q_dot_conf="location / { proxy_pass http://OLD; }\n",
        ),
        doors=(Door(), Door("B")),
    ),
    Shape(
        "a key by a snippet",
        conf(
            "server { listen A; location / { include snippets/key.conf; proxy_pass http://OLD; } }",
            snippets__key_dot_conf="proxy_set_header api-key secret;\n",
        ),
    ),
    Shape(
        "Authorization in another virtual host",
        conf(
            PLAIN + "server { listen B; include snippets/auth.conf; location / { proxy_pass http://127.0.0.1:9; } }",
            snippets__auth_dot_conf="proxy_set_header Authorization x;\n",
        ),
    ),
    Shape("a header in http", conf("proxy_set_header api-key k;\n" + PLAIN)),
    Shape(
        "add_header in http",
        conf("add_header X-Frame-Options DENY always;\nadd_header Strict-Transport-Security max-age=1;\n" + PLAIN),
    ),
    Shape(
        "limits in http",
        conf(
            "limit_conn_zone $binary_remote_addr zone=a:1m; limit_conn a 40; limit_req_zone $binary_remote_addr zone=b:1m rate=500r/s; limit_req zone=b burst=100;\n"
            + PLAIN
        ),
    ),
    Shape("an allow list in http", conf("allow 127.0.0.0/8; deny all;\n" + PLAIN)),
    Shape(
        "auth_basic in server",
        conf(
            "server { listen A; auth_basic q; auth_basic_user_file ROOT/etc/nginx/users; location / { proxy_pass http://OLD; } }",
            users="u:{PLAIN}p\n",
        ),
        doors=(Door(auth=("u", "p")),),
    ),
    Shape(
        "auth_request in front",
        conf(
            "server { listen A; location / { auth_request /in; proxy_pass http://OLD; } location = /in { internal; return 204; } }"
        ),
    ),
    Shape("a body limit", conf("server { listen A; client_max_body_size 1m; location / { proxy_pass http://OLD; } }")),
    Shape(
        "error pages",
        conf(
            "server { listen A; error_page 502 503 504 = @down; location / { proxy_pass http://OLD; } location @down { default_type application/json; return 503 '{\"down\":1}'; } }"
        ),
    ),
    Shape(
        "errors intercepted",
        conf(
            "server { listen A; proxy_intercept_errors on; error_page 404 /none; location / { proxy_pass http://OLD; } location = /none { return 404 'none'; } }"
        ),
    ),
    Shape(
        "CORS",
        conf(
            "server { listen A; location / { if ($request_method = OPTIONS) { add_header Access-Control-Allow-Origin *; return 204; } add_header Access-Control-Allow-Origin * always; proxy_pass http://OLD; } }"
        ),
    ),
    Shape(
        "a cache for reads",
        conf(
            "proxy_cache_path ROOT/cache keys_zone=c:1m; server { listen A; location / { proxy_cache c; proxy_cache_valid 200 1s; proxy_cache_bypass $http_api_key $http_x_lab_status; proxy_no_cache $http_api_key; proxy_pass http://OLD; } }"
        ),
    ),
    Shape("gzip", conf("gzip_types application/json; gzip_min_length 1; gzip_proxied any;\n" + PLAIN)),
    Shape("sub_filter", conf("sub_filter_types application/json; sub_filter old elder;\n" + PLAIN)),
    Shape(
        "unbuffered",
        conf(
            "server { listen A; location / { proxy_buffering off; proxy_request_buffering off; proxy_http_version 1.1; proxy_pass http://OLD; } }"
        ),
    ),
    Shape(
        "web socket headers",
        conf(
            'map $http_upgrade $cu { default upgrade; "" close; } server { listen A; location / { proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $cu; proxy_pass http://OLD; } }'
        ),
    ),
    Shape(
        "TLS and HTTP/2",
        conf(
            "server { listen A ssl http2; ssl_certificate ROOT/c.pem; ssl_certificate_key ROOT/k.pem; location / { proxy_pass http://OLD; } }"
        ),
        doors=(Door(tls=True),),
    ),
    Shape(
        "Docker's default.conf",
        {
            "conf.d/default.conf": "server {\n    listen       A;\n    server_name  localhost;\n    location / {\n        proxy_pass http://OLD;\n    }\n    error_page   500 502 503 504  /50x.html;\n    location = /50x.html {\n        root   /usr/share/nginx/html;\n    }\n}\n"
        },
    ),
    Shape("sites-enabled", {"sites-enabled/qdrant": PLAIN}, main="include conf.d/*.conf; include sites-enabled/*;"),
    Shape(
        "a weight and a spare that is down",
        conf(
            "upstream q { server OLD weight=5 max_fails=0; server 127.0.0.1:9 down; } server { listen A; location / { proxy_pass http://q; } }"
        ),
        real=False,
    ),
    Shape(
        "a name with a resolver",
        conf("server { listen A; resolver 127.0.0.1; set $q OLDHOST; location / { proxy_pass http://$q:OLDPORT$request_uri; } }"),
        real=False,
    ),
    Shape(
        "several Qdrants behind one server, IPv6, a socket, a file name with spaces",
        {
            "conf.d/my site.conf": 'server { listen A; listen unix:ROOT/q.sock; listen [::1]:0; include "conf.d/with spaces/*.inc"; '
            "location /other/ { proxy_pass http://127.0.0.1:9/; } }",
            "conf.d/with spaces/q.inc": "location / { proxy_pass http://OLD; } location = /healthz { proxy_pass http://OLD/healthz; } ",
        },
        real=False,
    ),
    Shape(
        "captures behind the address",
        conf("server { listen A; location ~ ^/(.*)$ { proxy_pass http://OLD/$1$is_args$args; } }"),
        real=False,
    ),
    Shape(
        "files first, then Qdrant",
        conf("server { listen A; location / { try_files /none @q; } location @q { proxy_pass http://OLD; } }"),
        real=False,
    ),
    Shape(
        "a map in a file of its own",
        conf(
            "map $host $b { include conf.d/backends.map; } server { listen A; location / { proxy_pass http://$b; } }",
            conf_dot_d__backends_dot_map="default OLD;",
        ),
        real=False,
    ),
    Shape(
        "the last six side by side",
        {
            "conf.d/my site.conf": "upstream q { server OLD weight=5 max_fails=0; server 127.0.0.1:9 down; } "
            "map $host $b { include conf.d/backends.map; } "
            "server { listen A; server_name weight; location / { proxy_pass http://q; } } "
            "server { listen A; server_name resolver; resolver 127.0.0.1; set $q OLDHOST; "
            "location / { proxy_pass http://$q:OLDPORT$request_uri; } } "
            'server { listen A; listen unix:ROOT/q.sock; server_name spaces; include "conf.d/with spaces/*.inc"; '
            "location /other/ { proxy_pass http://127.0.0.1:9/; } } "
            "server { listen A; server_name captures; location ~ ^/(.*)$ { proxy_pass http://OLD/$1$is_args$args; } } "
            "server { listen A; server_name files; location / { try_files /none @q; } location @q { proxy_pass http://OLD; } } "
            "server { listen A; server_name map; location / { proxy_pass http://$b; } }",
            "conf.d/with spaces/q.inc": "location / { proxy_pass http://OLD; } ",
            "conf.d/backends.map": "default OLD;",
        },
        doors=tuple(Door(host=name) for name in ("weight", "resolver", "spaces", "captures", "files", "map")),
    ),
    Shape("nothing but one nginx.conf", {}, main=PLAIN),
    Shape("everything in nginx.conf", {}, main="include conf.d/*.conf;\n" + PLAIN),
    Shape(
        "methods by limit_except",
        conf(
            "server { listen A; location / { limit_except GET POST PUT DELETE PATCH OPTIONS { deny all; } proxy_pass http://OLD; } }"
        ),
    ),
    Shape(
        "a proxy_pass in an if",
        conf("server { listen A; location / { if ($request_method = POST) { proxy_pass http://OLD; } proxy_pass http://OLD; } }"),
    ),
    Shape(
        "mirrored reads",
        conf("server { listen A; location / { mirror /m; proxy_pass http://OLD; } location = /m { internal; return 204; } }"),
    ),
    Shape(
        "comments that name it",
        conf(
            "# proxy_pass http://OLD;\nserver { listen A; # OLD\n location / { proxy_pass http://OLD; # was http://10.0.0.9:6333\n } }"
        ),
    ),
    Shape("a CR at every line's end", conf(PLAIN.replace("{ ", "{\r\n").replace("\n", "\r\n"))),
    Shape(
        "an allow of the old machine",
        conf("server { listen A; allow OLDHOST; allow all; location / { proxy_pass http://OLD; } }"),
    ),
    Shape(
        "another service of the old machine", conf(PLAIN + "server { listen B; location / { proxy_pass http://OLDHOST:9090; } }")
    ),
    Shape("a stream to Qdrant's REST", {}, top="stream { server { listen A; proxy_pass OLD; } }", real=False),
    Shape(
        "a dynamic target elsewhere",
        conf(PLAIN + "server { listen B; resolver 127.0.0.1; location / { proxy_pass http://$host:8080; } }"),
    ),
    Shape(
        "a named capture behind an upstream",
        conf("upstream q { server OLD; } server { listen A; location ~ ^/q(?<rest>/.*)$ { proxy_pass http://q$rest; } }"),
        real=False,
    ),
    Shape(
        "a variable in capitals",
        conf("map $host $Backend { default OLD; } server { listen A; location / { proxy_pass http://$backend; } }"),
        real=False,
    ),
    Shape(
        "names from the path, at the port of their scheme",
        conf(
            PLAIN + "server { listen B; resolver 127.0.0.1; location ~ ^/([^/]+)/ { proxy_pass http://$1.svc.lan$request_uri; } }"
        ),
        real=False,
    ),
    # --- refused, with the sentence
    Shape(
        "gRPC",
        conf(PLAIN + "server { listen B http2; location / { grpc_pass grpc://OLDHOST:6334; } }"),
        "also passes gRPC to the old Qdrant",
    ),
    Shape(
        "gRPC by an upstream",
        conf(PLAIN + "upstream g { server OLDHOST:6334; } server { listen B http2; location / { grpc_pass grpc://g; } }"),
        "also passes gRPC to the old Qdrant",
    ),
    Shape(
        "a stream to gRPC",
        conf(PLAIN),
        "also passes gRPC to the old Qdrant",
        top="stream { server { listen B; proxy_pass OLDHOST:6334; } }",
        real=False,
    ),
    Shape(
        "a stream to gRPC by an upstream",
        conf(PLAIN),
        "also passes gRPC to the old Qdrant",
        top="stream { upstream g { server OLDHOST:6334; } server { listen B; proxy_pass g; } }",
        real=False,
    ),
    Shape(
        "a spare server",
        conf("upstream q { server OLD; server 127.0.0.1:9 backup; } server { listen A; location / { proxy_pass http://q; } }"),
        "also ask 127.0.0.1:9",
        real=False,
    ),
    Shape(
        "a target that the door may change",
        conf(
            "server { listen A; set $b OLD; location / { auth_request /auth; auth_request_set $b $upstream_http_x_to; "
            "proxy_pass http://$b; } location = /auth { internal; proxy_pass http://127.0.0.1:9; } }"
        ),
        "where $b says",
        real=False,
    ),
    Shape(
        "clients' own addresses",
        conf("server { listen A; proxy_bind $remote_addr transparent; location / { proxy_pass http://OLD; } }"),
        "transparent",
        real=False,
    ),
    Shape(
        "HTTP/2 to the old server",
        conf("server { listen A; location / { proxy_http_version 2; proxy_pass http://OLD; } }"),
        "speaks HTTP/2",
        real=False,
    ),
    Shape(
        "a target from a request",
        conf(PLAIN + "server { listen B; resolver 127.0.0.1; location / { proxy_pass http://$http_x_to; } }"),
        "where $http_x_to says",
    ),
    Shape(
        "a target from the host name",
        conf(PLAIN + "server { listen B; resolver 127.0.0.1; location / { proxy_pass http://$host$request_uri; } }"),
        "where $host says",
    ),
    Shape(
        "a target from the path",
        conf(PLAIN + "server { listen B; resolver 127.0.0.1; location ~ ^/([^/]+)/ { proxy_pass http://$1:OLDPORT; } }"),
        "where $1 says",
        real=False,
    ),
    Shape(
        "an upstream from the path",
        conf("upstream qUp { server OLD; } server { listen A; location ~ ^/(q|v)/ { proxy_pass http://$1Up; } }"),
        "where $1 says",
        real=False,
    ),
    Shape(
        "a number of the address from the path",
        conf(PLAIN + "server { listen B; location ~ ^/n([0-9]+)/ { proxy_pass http://OLDNET.$1:OLDPORT; } }"),
        "where $1 says",
        real=False,
    ),
    Shape(
        "a target from the query",
        conf(PLAIN + "server { listen B; resolver 127.0.0.1; location / { proxy_pass http://$arg_to; } }"),
        "where $arg_to says",
        real=False,
    ),
    Shape(
        "a set that a capture may change",
        conf(PLAIN + "server { listen B; set $b 127.0.0.1:9; location ~ ^/(?<b>.+)$ { proxy_pass http://$b; } }"),
        "where $b says",
        real=False,
    ),
    Shape(
        "a name that only its resolver knows",
        conf(PLAIN + "server { listen B; resolver 127.0.0.1; set $q qd.test; location / { proxy_pass http://$q:OLDPORT; } }"),
        "does not know who that is",
        real=False,
    ),
    Shape(
        "an upstream that its resolver fills",
        conf("upstream q { server qd.test:OLDPORT resolve; } server { listen A; location / { proxy_pass http://q; } }"),
        "does not know who that is",
        real=False,
    ),
    Shape(
        "an upstream from DNS",
        conf("upstream q { server qd.test service=http resolve; } server { listen A; location / { proxy_pass http://q; } }"),
        "whose servers no file says",
        real=False,
    ),
    Shape(
        "an upstream that a program fills",
        conf(
            "upstream q { server 0.0.0.1; balancer_by_lua_file b.lua; } server { listen A; location / { proxy_pass http://q; } }"
        ),
        "whose servers no file says",
        real=False,
    ),
    Shape(
        "clients sent to the old server by its name",
        conf(PLAIN + "server { listen B; return 307 http://qd.test:OLDPORT$request_uri; }"),
        "sends clients to the old Qdrant itself",
        resolves={"qd.test": "OLDHOST"},
        real=False,
    ),
    Shape(
        "clients told the old server's address",
        conf(PLAIN + "server { listen B; return 200 'http://OLD'; }"),
        "tells clients of the old Qdrant itself",
        real=False,
    ),
    Shape(
        "a stream with too little patience",
        conf(PLAIN),
        "waits only 1 s",
        top="stream { server { listen B; proxy_timeout 1s; proxy_pass OLD; } }",
        real=False,
    ),
    Shape(
        "clients sent to the old server",
        conf(PLAIN + "server { listen B; return 307 http://OLD$request_uri; }"),
        "sends clients to the old Qdrant itself",
    ),
    Shape(
        "a second server in the upstream",
        conf("upstream q { server OLD; server 127.0.0.1:9 backup; } server { listen A; location / { proxy_pass http://q; } }"),
        "also ask 127.0.0.1:9",
    ),
    Shape(
        "TLS to the old server",
        conf("server { listen A; location / { proxy_pass https://OLD; } }"),
        "speaks TLS to the old Qdrant",
    ),
    Shape(
        "too little patience",
        conf("server { listen A; location / { proxy_read_timeout 1s; proxy_pass http://OLD; } }"),
        "waits only 1 s",
    ),
    Shape(
        "a set that nothing uses", conf(PLAIN + "server { listen B; set $spare OLD; return 204; }"), "cannot see what comes of it"
    ),
    Shape(
        "an address in pieces",
        conf("server { listen A; set $n OLDLAST; location / { proxy_pass http://OLDNET.$n:OLDPORT; } }"),
        "from parts",
    ),
    Shape(
        "Lua",
        conf(PLAIN + 'server { listen B; location / { content_by_lua_block { local u = "http://OLD" } } }'),
        "cannot see what comes of it",
        real=False,
    ),
    Shape("uwsgi to it", conf(PLAIN + "server { listen B; location / { uwsgi_pass OLD; } }"), "which is not HTTP"),
    Shape("proxy_set_body in http", conf("proxy_set_body x;\n" + PLAIN), "sets `proxy_set_body`"),
    Shape(
        "nothing leads to it",
        conf("server { listen A; location / { proxy_pass http://127.0.0.1:9; } }"),
        "No file of Nginx's configuration passes requests",
    ),
    Shape(
        "a name of the gate's",
        conf(PLAIN + "upstream qdrant_gate_old { server 127.0.0.1:9; }"),
        "names something `qdrant_gate_...`",
    ),
]


def filled(text: str, values: Mapping[str, str]) -> str:
    """A text of the table with its addresses."""
    for name in ("OLDHOST", "OLDPORT", "OLDNET", "OLDLAST", "OLD", "ROOT"):
        text = text.replace(name, values[name])
    return (
        text.replace("listen       A", f"listen       {values['A']}")
        .replace("listen A", f"listen {values['A']}")
        .replace("listen B", f"listen {values['B']}")
    )


SHOWN = {
    "OLD": "10.0.0.152:6333",
    "OLDHOST": "10.0.0.152",
    "OLDPORT": "6333",
    "OLDNET": "10.0.0",
    "OLDLAST": "152",
    "ROOT": "/etc",
    "A": "80",
    "B": "81",
}
DOCUMENT = """# Shapes of Nginx configurations, and what becomes of them

Made by `python -m tests.gate.shapes` from the table that `tests/gate/test_shapes.py` tries on a real nginx. *Works*: the gate goes
in, users are answered as before, and it comes out byte for byte. What is refused can be changed as the sentence says, or be put in
by hand (`nginx.edit: false`).

| shape | what becomes of it |
|---|---|
"""


#: What is pointed to the gate by hand (`nginx.edit: false`): what is in front, where the address goes, and what tried it.
BY_HAND = (
    ("Nginx Proxy Manager", "the proxy host's *Forward Hostname / IP* and *Forward Port*", "its generated file, above"),
    ("files that Ansible owns", "the template, in place of the old address; then run the play", "`TestByHand`"),
    ("HAProxy", "`server one ADDRESS` of the backend", "`tests/gate/test_another_proxy.py`"),
    (
        "Caddy",
        "`reverse_proxy ADDRESS` in the site's block of the `Caddyfile`, then `caddy reload`",
        "as its manual says; not run",
    ),
    (
        "Traefik",
        "`- url: http://ADDRESS` under `http.services.NAME.loadBalancer.servers` (file provider)",
        "as its manual says; not run",
    ),
)
BY_HAND_SAYS = """
## By hand

Set `nginx.edit: false`. The tool writes only its own file into an Nginx, says the gate's address, and waits until requests come
by it. On another machine the proxy needs a `gate_address` that it reaches.

| in front | where the address goes | tried by |
|---|---|---|
"""
WHERE = """
## Where it runs

| host | tried by |
|---|---|
| Debian's nginx 1.22.1 | every run of the tests |
| nginx 1.18.0 | `test_gate_conf` 74, `test_controller` 79, `test_shapes` 157, `test_field_inputs` 25, `test_inherited` 61, `test_watch` and `test_bodies_and_links` 21, none failed; a rehearsal with 27,183 requests, 0 failed, 0 lost |
| nginx 1.31.4 | `test_gate_conf` 74, `test_shapes` 157, `test_field_inputs` 25, `test_inherited` 64, `test_watch` 9, `test_controller` and `test_bodies_and_links` 83, none failed; a rehearsal with 17,869 requests, 0 failed, 0 lost |
| busybox alone (Alpine): its shell and applets | `test_small_hosts` |
| a container whose server file is mounted by itself | `test_nginx_in_docker`, a real container |
| a file that cannot be renamed over | `test_7_a_file_that_is_mounted_by_itself_is_written_in_place` |
"""


def sentence(shape: Shape) -> str:
    """What the tool says about a shape, on the addresses of the plan; empty where it works."""
    files = {f"/etc/nginx/{name}": filled(text, SHOWN) for name, text in shape.files.items()}
    main = f"events {{}}\nhttp {{ {filled(shape.main, SHOWN)} }}\n{filled(shape.top, SHOWN)}\n"
    configuration = nginx_conf.assembled("/etc/nginx/nginx.conf", {"/etc/nginx/nginx.conf": main, **files})
    names = {name: filled(value, SHOWN) for name, value in shape.resolves.items()}

    def resolve(name: str) -> list[str]:
        return [names[name]] if name in names else []

    found = ways.find(configuration, Server.of(SHOWN["OLD"]), resolve=resolve)
    return " ".join(found.refused)


def report() -> str:
    """The document."""
    lines = []
    for shape in SHAPES:
        said = (sentence(shape) or f"... {shape.refused} ...").replace("|", "\\|") if shape.refused else ""
        lines.append(f"| {shape.name} | {'refused: ' + said if shape.refused else 'works'} |\n")
    works = sum(not shape.refused for shape in SHAPES)
    total = f"\n{len(SHAPES)} shapes: {works} work, {len(SHAPES) - works} are refused.\n"
    by_hand = "".join(f"| {front} | {where} | {tried} |\n" for front, where, tried in BY_HAND)
    return f"{DOCUMENT}{''.join(lines)}{total}{BY_HAND_SAYS}{by_hand}{WHERE}"


if __name__ == "__main__":
    print(report(), end="")
