SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
CREATE SCHEMA baton;
CREATE FUNCTION baton.mark(e bigint, b bigint) RETURNS void
    LANGUAGE plpgsql
    AS $$ DECLARE r baton.leader; BEGIN SELECT * INTO r FROM baton.leader FOR UPDATE; IF r.epoch <> e THEN RAISE EXCEPTION 'epoch % of % leads, ours is %', r.epoch, r.holder, e USING ERRCODE='BT001'; END IF; IF r.batch >= b THEN RAISE EXCEPTION 'batch % is committed', b USING ERRCODE='BT002'; END IF; UPDATE baton.leader SET batch = b, beat = clock_timestamp(); END $$;
SET default_tablespace = '';
SET default_table_access_method = heap;
CREATE TABLE baton.ended (
    request text NOT NULL,
    choice integer NOT NULL,
    finish text NOT NULL,
    text text NOT NULL,
    n_tok bigint NOT NULL,
    prompt_tok bigint NOT NULL,
    output_tok bigint NOT NULL,
    cached_tok bigint NOT NULL,
    reasoning_tok bigint NOT NULL,
    ended_ms bigint NOT NULL
);
CREATE TABLE baton.leader (
    one integer NOT NULL,
    epoch bigint NOT NULL,
    batch bigint NOT NULL,
    holder text NOT NULL,
    beat timestamp with time zone NOT NULL,
    CONSTRAINT leader_one_check CHECK ((one = 1))
);
CREATE TABLE baton.request (
    id text NOT NULL,
    tenant text NOT NULL,
    path text NOT NULL,
    key text,
    body_hash bytea NOT NULL,
    prompt bytea NOT NULL,
    params_version integer NOT NULL,
    params bytea NOT NULL,
    seed bigint NOT NULL,
    created_ms bigint NOT NULL,
    deadline_ms bigint NOT NULL,
    n_choice integer NOT NULL
);
CREATE TABLE baton.schema_version (
    version integer NOT NULL,
    applied timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE baton.token (
    request text NOT NULL,
    choice integer NOT NULL,
    first bigint NOT NULL,
    n integer NOT NULL,
    ids bytea NOT NULL,
    extra bytea NOT NULL
);
INSERT INTO baton.ended VALUES ('a', 0, 'stop', 'bad ? byte', 4, 5, 4, 2, 1, 77);
INSERT INTO baton.ended VALUES ('b', 0, 'stop', 'bad ? byte', 100, 5, 100, 2, 1, 77);
INSERT INTO baton.leader VALUES (1, 1, 4, 'host:1', '2026-11-24 19:40:36.34334+00');
INSERT INTO baton.request VALUES ('a', 'tenant-ü', '/v1/chat/completions', NULL, '\x6161616161616161616161616161616161616161616161616161616161616161', '\x3a470000594700007847000097470000b6470000', 3, '\x0070ff', -81985529216486896, 1097, 2097, 2);
INSERT INTO baton.request VALUES ('b', 'tenant-ü', '/v1/chat/completions', NULL, '\x6262626262626262626262626262626262626262626262626262626262626262', '\x29660000486600006766000086660000a5660000', 3, '\x0070ff', -81985529216486896, 1098, 2098, 1);
INSERT INTO baton.request VALUES ('c', 'tenant-ü', '/v1/chat/completions', NULL, '\x6363636363636363636363636363636363636363636363636363636363636363', '\x1885000037850000568500007585000094850000', 3, '\x0070ff', -81985529216486896, 1099, 2099, 1);
INSERT INTO baton.schema_version VALUES (1, '2026-11-24 19:40:36.278274+00');
INSERT INTO baton.token VALUES ('a', 0, 0, 3, '\x8fdb0100aedb0100cddb0100', '\x780079');
INSERT INTO baton.token VALUES ('a', 1, 0, 2, '\xa87b0100c77b0100', '\x780079');
INSERT INTO baton.token VALUES ('b', 0, 0, 100, '\x7e0100009d010000bc010000db010000fa0100001902000038020000570200007602000095020000b4020000d3020000f202000011030000300300004f0300006e0300008d030000ac030000cb030000ea0300000904000028040000470400006604000085040000a4040000c3040000e204000001050000200500003f0500005e0500007d0500009c050000bb050000da050000f90500001806000037060000560600007506000094060000b3060000d2060000f1060000100700002f0700004e0700006d0700008c070000ab070000ca070000e90700000808000027080000460800006508000084080000a3080000c2080000e1080000000900001f0900003e0900005d0900007c0900009b090000ba090000d9090000f8090000170a0000360a0000550a0000740a0000930a0000b20a0000d10a0000f00a00000f0b00002e0b00004d0b00006c0b00008b0b0000aa0b0000c90b0000e80b0000070c0000260c0000450c0000640c0000830c0000a20c0000c10c0000e00c0000ff0c00001e0d00003d0d00005c0d00007b0d0000', '\x780079');
INSERT INTO baton.token VALUES ('a', 0, 3, 1, '\xecdb0100', '\x780079');
INSERT INTO baton.token VALUES ('c', 0, 0, 5, '\x6d2000008c200000ab200000ca200000e9200000', '\x780079');
ALTER TABLE ONLY baton.ended
    ADD CONSTRAINT ended_pkey PRIMARY KEY (request, choice);
ALTER TABLE ONLY baton.leader
    ADD CONSTRAINT leader_pkey PRIMARY KEY (one);
ALTER TABLE ONLY baton.request
    ADD CONSTRAINT request_pkey PRIMARY KEY (id);
ALTER TABLE ONLY baton.schema_version
    ADD CONSTRAINT schema_version_pkey PRIMARY KEY (version);
ALTER TABLE ONLY baton.token
    ADD CONSTRAINT token_pkey PRIMARY KEY (request, choice, first);
CREATE INDEX request_age ON baton.request USING btree (created_ms, id COLLATE "C");
CREATE UNIQUE INDEX request_key ON baton.request USING btree (tenant, path, key) WHERE (key IS NOT NULL);
