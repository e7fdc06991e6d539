"""Caches: each test that takes `cache` runs on a folder and on a database."""

import pytest


@pytest.fixture(scope="session")
def database_server():
    pytest.importorskip("psycopg", reason="psycopg is not installed: no tests on PostgreSQL")
    from tests.pipelines.llm.database import PASSWORD, USER, DatabaseServer, server_programs

    programs = server_programs()
    if programs is None:
        pytest.skip("PostgreSQL's server is not installed: no tests on it")
    with pytest.MonkeyPatch.context() as patch, DatabaseServer(programs) as server:
        patch.setenv("PGUSER", USER)
        patch.setenv("PGPASSWORD", PASSWORD)
        yield server


@pytest.fixture
def database(database_server):
    """The address of an empty database, whose user and password are in the environment."""
    return database_server.emptied()


@pytest.fixture(params=["folder", "database"])
def cache_place(request, tmp_path):
    """Where a cache may be: a folder, or a database; neither has been used."""
    return str(tmp_path / "cache") if request.param == "folder" else request.getfixturevalue("database")
