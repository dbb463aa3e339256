"""Why the gate could not work in an Nginx, as sentences, from what is known of its host. Pure."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from cutover.gate.servers import split
from cutover.gate.templates import UNKNOWN_VERSION

if TYPE_CHECKING:
    from cutover.gate.nginx_host import Facts
    from cutover.site.schema import Nginx

#: `auth_delay` came with 1.17.10.
OLDEST_NGINX = (1, 17, 10)
#: Part of every ordinary build, unless it was left out on purpose.
_NEEDED = ("rewrite", "map", "proxy", "mirror", "empty_gif", "limit_conn", "access", "auth_basic", "upstream_keepalive")
#: Room for copies and flags.
_LEAST_FREE_MB = 16
#: What `http` may say without touching the gate's server, or what the gate's own file says otherwise.
_INHERITED_HARMLESS = re.compile(
    r"absolute_redirect|access_log|add_(after|before)_body|add_header(_inherit)?|add_trailer(_inherit)?|addition_types|aio(_write)?|allow|"
    r"ancient_browser.*|auth_basic(_user_file)?|auth_delay|auth_request(_set)?|autoindex.*|brotli.*|charset.*|chunked_transfer_encoding|"
    r"client_.*|connection_pool_size|default_type|deny|directio.*|disable_symlinks|early_hints|empty_gif|error_log|error_page|etag|"
    r"expires|fastcgi_.*|geo|geoip.*|grpc_.*|gunzip.*|gzip.*|http2.*|http3.*|quic_.*|if_modified_since|ignore_invalid_headers|image_filter.*|"
    r"include|index|js_.*|keepalive.*|keyval.*|large_client_header_buffers|limit_conn.*|limit_rate.*|limit_req.*|lingering_.*|log_format|"
    r"log_not_found|log_subrequest|lua_.*|init_by_lua.*|init_worker_by_lua.*|map|map_hash.*|max_headers|max_ranges|memcached_.*|merge_slashes|"
    r"min_delete_depth|mirror.*|modern_browser.*|modsecurity.*|more_(set|clear)_headers|more_(set|clear)_input_headers|mp4.*|msie_.*|"
    r"open_(file|log_file)_cache.*|otel_.*|output_buffers|override_charset|perl.*|port_in_redirect|postpone_.*|proxy_.*|"
    r"random_index|read_ahead|real_ip_.*|recursive_error_pages|referer_hash.*|request_pool_size|reset_timedout_connection|"
    r"resolver.*|rewrite_log|root|satisfy|scgi_.*|send_lowat|send_timeout|sendfile.*|server|server_name.*|server_tokens|set_real_ip_from|"
    r"slice|source_charset|split_clients|ssi.*|ssl_.*|status_zone|sub_filter.*|subrequest_output_buffer_size|tcp_.*|try_files|types.*|"
    r"underscores_in_headers|uninitialized_variable_warn|upstream|upstream_conf|userid.*|uwsgi_.*|variables_hash.*|vhost_traffic_.*|"
    r"xslt_.*|xml_entities|zstd.*|secure_link.*|stub_status|valid_referers|var_.*|geoip2|health_check.*|zone_sync.*|match|tunnel_.*"
)
#: What reaches every server from `http` and cannot be taken back in one.
_CANNOT_BE_TAKEN_BACK = {"proxy_set_body"}


def obstacles(facts: Facts, nginx: Nginx, gate_file: str) -> list[str]:
    """Why the gate could not work there, as sentences; empty when it can. Pure."""
    found = []
    version = facts.built().version
    if version == UNKNOWN_VERSION:
        found.append(f"It is not nginx but {facts.version or 'something that does not say its version'}.")
    elif version < OLDEST_NGINX:
        number, needed = (".".join(map(str, one)) for one in (version, OLDEST_NGINX))
        found.append(f"nginx {number} is too old: the gate needs {needed} (`auth_delay`).")
    if "--with-http_auth_request_module" not in facts.build:
        found.append("This nginx was built without the module auth_request, with which the gate holds writes.")
    found += [
        f"This nginx was built without the module {name}, which the gate needs."
        for name in _NEEDED
        if f"--without-http_{name}_module" in facts.build
    ]
    configuration = facts.configuration
    user = next((d.words[1].text for d in configuration.said("user") if len(d.words) > 1), "")
    if facts.is_root and user and user != nginx.worker_user:
        found.append(f"Its workers run as {user}, but site.yaml says nginx.worker_user: {nginx.worker_user}.")
    included = any(one.context == ("http",) and one.takes(gate_file) for one in configuration.includes)
    if not any(one.name == "http" for one in configuration.top):
        found.append(f"{configuration.main} has no `http` block.")
    elif not included and not nginx.edit:
        found.append(
            f"Nothing from {PurePosixPath(gate_file).parent} is included in `http` of its configuration. Name a folder whose "
            f"files are, as nginx.http_folder in site.yaml, or add `include {gate_file};` to the `http` block of "
            f"{configuration.main}."
        )
    found += _about_its_place(facts, gate_file)
    if any(d.words[-1].text == "off" for d in configuration.said("master_process")):
        found.append("It runs without a master process (`master_process off`), so it cannot be reloaded. Take that out.")
    if facts.foreign:
        shown = ", ".join(facts.foreign[:3]) + (", ..." if len(facts.foreign) > 3 else "")
        found.append(
            f"{nginx.gate_folder} holds what is not the gate's: {shown}. "
            "The gate needs a folder of its own (nginx.gate_folder in site.yaml)."
        )
    for one in (d for block in configuration.top if block.name == "http" for d in block.block or []):
        if one.name in _CANNOT_BE_TAKEN_BACK or not _INHERITED_HARMLESS.fullmatch(one.name):
            found.append(
                f"{one.where} sets `{one.name}` for every server, and the gate's own could not take it back. Move it into the "
                "server blocks that need it."
            )
    for one in configuration.walk():
        if one.file != gate_file and any("qdrant_gate_" in word.text for word in one.words):
            found.append(f"{one.where} names something `qdrant_gate_...`, as the gate does. Give it another name.")
        if one.name == "listen" and one.file != gate_file and one.context == "http" and len(one.words) > 1:
            host, port = split(one.words[1].text)
            if (host, port) == split(nginx.gate_address):
                found.append(f"{one.where} listens on {nginx.gate_address} already; give the gate another nginx.gate_address.")
    if not facts.backed_up:
        found += _about_the_host(facts, nginx)
    return found


#: What helps where the gate's file cannot be read where site.yaml puts it.
_ELSEWHERE = "or name a folder as nginx.http_folder that nothing includes: the tool then includes its file at the end of `http`."


def _about_its_place(facts: Facts, gate_file: str) -> list[str]:
    """Why nginx could not read the gate's file in its folder, once and in `http`."""
    found = []
    taking = [one for one in facts.configuration.includes if one.takes(gate_file)]
    found += [
        f"`include {pattern}` takes in {PurePosixPath(gate_file).parent} by another name. Name that folder as nginx.http_folder "
        f"in site.yaml as it is included, {_ELSEWHERE}"
        for pattern in dict.fromkeys(facts.other_names)
    ]
    if elsewhere := next((one for one in taking if one.context != ("http",)), None):
        found.append(
            f"`include {elsewhere.pattern}` in {' in '.join(f'`{name}`' for name in reversed(elsewhere.context)) or 'no block'} "
            f"would take in the gate's file, which belongs into `http`. Change that pattern, {_ELSEWHERE}"
        )
    elif len(taking) > 1:
        patterns = ", ".join(f"`{one.pattern}`" for one in taking)
        found.append(
            f"{PurePosixPath(gate_file).parent} is included {len(taking)} times ({patterns}), and "
            f"the gate's file may be read once only. Take an include out, {_ELSEWHERE}"
        )
    placed = facts.configuration.with_files({gate_file: "map a $b { default c; }"})
    begun = ""
    for one in (d for block in placed.top if block.name == "http" for d in block.block or []):
        if one.name == "map":
            begun = begun or one.file
        elif one.name.startswith("map_hash_") and begun == gate_file:
            begun = one.file  # once is enough
            found.append(
                f"{one.where} sets `{one.name}`, which nginx takes only before the first `map`, and the gate's file would come "
                f"before it. Move that line up to the beginning of `http`, {_ELSEWHERE}"
            )
    return found


def _about_the_host(facts: Facts, nginx: Nginx) -> list[str]:
    found = []
    if facts.listening:
        found.append(f"Something listens on {nginx.gate_address} already; give the gate another nginx.gate_address in site.yaml.")
    found += [f"{path} cannot be written." for path in facts.unwritable]
    if facts.blind:
        found.append(blind_sentence(nginx, facts.blind))
    if facts.open_folder:
        found.append(
            f"Everybody on that host can write in {facts.open_folder}, and could set the gate's flags. Take that right away "
            "(chmod o-w), or name another folder as nginx.gate_folder in site.yaml."
        )
    if facts.stuck_as_root:
        found.append(
            f"Root cannot become {nginx.worker_user} there by `su` or `setpriv`, and recorded bodies are read and removed as "
            "that user."
        )
    if facts.no_folder:
        found.append(f"There is no folder {facts.no_folder}. Make it, or name another as nginx.http_folder in site.yaml.")
    if 0 <= facts.free_mb < _LEAST_FREE_MB:
        found.append(f"There are only {facts.free_mb} MB free where {nginx.gate_folder} would be; it needs {_LEAST_FREE_MB} MB.")
    if facts.newer:
        shown = ", ".join(facts.newer[:3]) + (", ..." if len(facts.newer) > 3 else "")
        found.append(
            f"{shown} changed after nginx last read its configuration, so what is loaded is not known, and the gate's "
            f"reload would "
            "bring that in as well. Reload nginx yourself first."
        )
    if not facts.runs:
        found.append(
            f"nginx does not run, as far as {facts.pid_file} says. Start it first; where `-g` says another `pid`, write that "
            "into its configuration."
        )
    if facts.started:
        found.append(
            f"The nginx that runs there reads {facts.started} (`-c`). Name that as nginx.main_config in site.yaml, instead of "
            f"{nginx.main_config}."
        )
    if facts.master_user:
        found.append(
            f"nginx's master process runs as {facts.master_user}, and could not read what the shell of site.yaml writes. Let "
            f"nginx.shell lead to a shell of {facts.master_user}, or start nginx as root."
        )
    return found


def blind_sentence(nginx: Nginx, folder: str) -> str:
    """Why the workers would not see the flags."""
    return (
        f"nginx's worker processes (user {nginx.worker_user}) cannot look into {folder}: they would act as if no flag "
        f"were set, and "
        "hold and switch would do nothing. Make every folder on the way to it passable for that user (chmod o+x), then try again."
    )
