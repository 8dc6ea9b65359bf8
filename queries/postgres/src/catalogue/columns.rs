//! The names and columns of the tables of `pg_catalog` and `information_schema`, as PostgreSQL 16
//! has them.
//!
//! Clients select columns by name and by position, and fail when a table is missing. So this module
//! lists every table that common clients read, with all its columns. Most of the tables have no
//! rows.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};

use crate::types;

/// A line for each table: name, oid and kind, then the names and types of its columns. `!` marks a
/// column that is never null. An indented line continues the one before.
const PG_CATALOG: &str = "\
pg_am 2601 r: oid oid!, amname name!, amhandler regproc!, amtype char!
pg_amop 2602 r: oid oid!, amopfamily oid!, amoplefttype oid!, amoprighttype oid!, amopstrategy
    int2!, amoppurpose char!, amopopr oid!, amopmethod oid!, amopsortfamily oid!
pg_amproc 2603 r: oid oid!, amprocfamily oid!, amproclefttype oid!, amprocrighttype oid!,
    amprocnum int2!, amproc regproc!
pg_attrdef 2604 r: oid oid!, adrelid oid!, adnum int2!, adbin pg_node_tree!
pg_attribute 1249 r: attrelid oid!, attname name!, atttypid oid!, attlen int2!, attnum int2!,
    attcacheoff int4!, atttypmod int4!, attndims int2!, attbyval bool!, attalign char!, attstorage
    char!, attcompression char!, attnotnull bool!, atthasdef bool!, atthasmissing bool!,
    attidentity char!, attgenerated char!, attisdropped bool!, attislocal bool!, attinhcount
    int2!, attstattarget int2!, attcollation oid!, attacl _aclitem, attoptions _text,
    attfdwoptions _text, attmissingval anyarray
pg_auth_members 1261 r: oid oid!, roleid oid!, member oid!, grantor oid!, admin_option bool!,
    inherit_option bool!, set_option bool!
pg_authid 1260 r: oid oid!, rolname name!, rolsuper bool!, rolinherit bool!, rolcreaterole bool!,
    rolcreatedb bool!, rolcanlogin bool!, rolreplication bool!, rolbypassrls bool!, rolconnlimit
    int4!, rolpassword text, rolvaliduntil timestamptz
pg_cast 2605 r: oid oid!, castsource oid!, casttarget oid!, castfunc oid!, castcontext char!,
    castmethod char!
pg_class 1259 r: oid oid!, relname name!, relnamespace oid!, reltype oid!, reloftype oid!,
    relowner oid!, relam oid!, relfilenode oid!, reltablespace oid!, relpages int4!, reltuples
    float4!, relallvisible int4!, reltoastrelid oid!, relhasindex bool!, relisshared bool!,
    relpersistence char!, relkind char!, relnatts int2!, relchecks int2!, relhasrules bool!,
    relhastriggers bool!, relhassubclass bool!, relrowsecurity bool!, relforcerowsecurity bool!,
    relispopulated bool!, relreplident char!, relispartition bool!, relrewrite oid!, relfrozenxid
    xid!, relminmxid xid!, relacl _aclitem, reloptions _text, relpartbound pg_node_tree
pg_collation 3456 r: oid oid!, collname name!, collnamespace oid!, collowner oid!, collprovider
    char!, collisdeterministic bool!, collencoding int4!, collcollate text, collctype text,
    colliculocale text, collicurules text, collversion text
pg_constraint 2606 r: oid oid!, conname name!, connamespace oid!, contype char!, condeferrable
    bool!, condeferred bool!, convalidated bool!, conrelid oid!, contypid oid!, conindid oid!,
    conparentid oid!, confrelid oid!, confupdtype char!, confdeltype char!, confmatchtype char!,
    conislocal bool!, coninhcount int2!, connoinherit bool!, conkey _int2, confkey _int2,
    conpfeqop _oid, conppeqop _oid, conffeqop _oid, confdelsetcols _int2, conexclop _oid, conbin
    pg_node_tree
pg_conversion 2607 r: oid oid!, conname name!, connamespace oid!, conowner oid!, conforencoding
    int4!, contoencoding int4!, conproc regproc!, condefault bool!
pg_database 1262 r: oid oid!, datname name!, datdba oid!, encoding int4!, datlocprovider char!,
    datistemplate bool!, datallowconn bool!, datconnlimit int4!, datfrozenxid xid!, datminmxid
    xid!, dattablespace oid!, datcollate text!, datctype text!, daticulocale text, daticurules
    text, datcollversion text, datacl _aclitem
pg_db_role_setting 2964 r: setdatabase oid!, setrole oid!, setconfig _text
pg_default_acl 826 r: oid oid!, defaclrole oid!, defaclnamespace oid!, defaclobjtype char!,
    defaclacl _aclitem!
pg_depend 2608 r: classid oid!, objid oid!, objsubid int4!, refclassid oid!, refobjid oid!,
    refobjsubid int4!, deptype char!
pg_description 2609 r: objoid oid!, classoid oid!, objsubid int4!, description text!
pg_enum 3501 r: oid oid!, enumtypid oid!, enumsortorder float4!, enumlabel name!
pg_event_trigger 3466 r: oid oid!, evtname name!, evtevent name!, evtowner oid!, evtfoid oid!,
    evtenabled char!, evttags _text
pg_extension 3079 r: oid oid!, extname name!, extowner oid!, extnamespace oid!, extrelocatable
    bool!, extversion text!, extconfig _oid, extcondition _text
pg_foreign_data_wrapper 2328 r: oid oid!, fdwname name!, fdwowner oid!, fdwhandler oid!,
    fdwvalidator oid!, fdwacl _aclitem, fdwoptions _text
pg_foreign_server 1417 r: oid oid!, srvname name!, srvowner oid!, srvfdw oid!, srvtype text,
    srvversion text, srvacl _aclitem, srvoptions _text
pg_foreign_table 3118 r: ftrelid oid!, ftserver oid!, ftoptions _text
pg_group 12010 v: groname name, grosysid oid, grolist _oid
pg_index 2610 r: indexrelid oid!, indrelid oid!, indnatts int2!, indnkeyatts int2!, indisunique
    bool!, indnullsnotdistinct bool!, indisprimary bool!, indisexclusion bool!, indimmediate
    bool!, indisclustered bool!, indisvalid bool!, indcheckxmin bool!, indisready bool!, indislive
    bool!, indisreplident bool!, indkey int2vector!, indcollation oidvector!, indclass oidvector!,
    indoption int2vector!, indexprs pg_node_tree, indpred pg_node_tree
pg_indexes 12043 v: schemaname name, tablename name, indexname name, tablespace name, indexdef
    text
pg_inherits 2611 r: inhrelid oid!, inhparent oid!, inhseqno int4!, inhdetachpending bool!
pg_init_privs 3394 r: objoid oid!, classoid oid!, objsubid int4!, privtype char!, initprivs
    _aclitem!
pg_language 2612 r: oid oid!, lanname name!, lanowner oid!, lanispl bool!, lanpltrusted bool!,
    lanplcallfoid oid!, laninline oid!, lanvalidator oid!, lanacl _aclitem
pg_largeobject 2613 r: loid oid!, pageno int4!, data bytea!
pg_largeobject_metadata 2995 r: oid oid!, lomowner oid!, lomacl _aclitem
pg_matviews 12038 v: schemaname name, matviewname name, matviewowner name, tablespace name,
    hasindexes bool, ispopulated bool, definition text
pg_namespace 2615 r: oid oid!, nspname name!, nspowner oid!, nspacl _aclitem
pg_opclass 2616 r: oid oid!, opcmethod oid!, opcname name!, opcnamespace oid!, opcowner oid!,
    opcfamily oid!, opcintype oid!, opcdefault bool!, opckeytype oid!
pg_operator 2617 r: oid oid!, oprname name!, oprnamespace oid!, oprowner oid!, oprkind char!,
    oprcanmerge bool!, oprcanhash bool!, oprleft oid!, oprright oid!, oprresult oid!, oprcom oid!,
    oprnegate oid!, oprcode regproc!, oprrest regproc!, oprjoin regproc!
pg_opfamily 2753 r: oid oid!, opfmethod oid!, opfname name!, opfnamespace oid!, opfowner oid!
pg_parameter_acl 6243 r: oid oid!, parname text!, paracl _aclitem
pg_partitioned_table 3350 r: partrelid oid!, partstrat char!, partnatts int2!, partdefid oid!,
    partattrs int2vector!, partclass oidvector!, partcollation oidvector!, partexprs pg_node_tree
pg_policies 12018 v: schemaname name, tablename name, policyname name, permissive text, roles
    _name, cmd text, qual text, with_check text
pg_policy 3256 r: oid oid!, polname name!, polrelid oid!, polcmd char!, polpermissive bool!,
    polroles _oid!, polqual pg_node_tree, polwithcheck pg_node_tree
pg_proc 1255 r: oid oid!, proname name!, pronamespace oid!, proowner oid!, prolang oid!, procost
    float4!, prorows float4!, provariadic oid!, prosupport regproc!, prokind char!, prosecdef
    bool!, proleakproof bool!, proisstrict bool!, proretset bool!, provolatile char!, proparallel
    char!, pronargs int2!, pronargdefaults int2!, prorettype oid!, proargtypes oidvector!,
    proallargtypes _oid, proargmodes _char, proargnames _text, proargdefaults pg_node_tree,
    protrftypes _oid, prosrc text!, probin text, prosqlbody pg_node_tree, proconfig _text, proacl
    _aclitem
pg_publication 6104 r: oid oid!, pubname name!, pubowner oid!, puballtables bool!, pubinsert
    bool!, pubupdate bool!, pubdelete bool!, pubtruncate bool!, pubviaroot bool!
pg_publication_namespace 6237 r: oid oid!, pnpubid oid!, pnnspid oid!
pg_publication_rel 6106 r: oid oid!, prpubid oid!, prrelid oid!, prqual pg_node_tree, prattrs
    int2vector
pg_range 3541 r: rngtypid oid!, rngsubtype oid!, rngmultitypid oid!, rngcollation oid!, rngsubopc
    oid!, rngcanonical regproc!, rngsubdiff regproc!
pg_replication_origin 6000 r: roident oid!, roname text!
pg_rewrite 2618 r: oid oid!, rulename name!, ev_class oid!, ev_type char!, ev_enabled char!,
    is_instead bool!, ev_qual pg_node_tree!, ev_action pg_node_tree!
pg_roles 12000 v: rolname name, rolsuper bool, rolinherit bool, rolcreaterole bool, rolcreatedb
    bool, rolcanlogin bool, rolreplication bool, rolconnlimit int4, rolpassword text,
    rolvaliduntil timestamptz, rolbypassrls bool, rolconfig _text, oid oid
pg_rules 12023 v: schemaname name, tablename name, rulename name, definition text
pg_seclabel 3596 r: objoid oid!, classoid oid!, objsubid int4!, provider text!, label text!
pg_sequence 2224 r: seqrelid oid!, seqtypid oid!, seqstart int8!, seqincrement int8!, seqmax
    int8!, seqmin int8!, seqcache int8!, seqcycle bool!
pg_sequences 12048 v: schemaname name, sequencename name, sequenceowner name, data_type regtype,
    start_value int8, min_value int8, max_value int8, increment_by int8, cycle bool, cache_size
    int8, last_value int8
pg_settings 12104 v: name text, setting text, unit text, category text, short_desc text,
    extra_desc text, context text, vartype text, source text, min_val text, max_val text, enumvals
    _text, boot_val text, reset_val text, sourcefile text, sourceline int4, pending_restart bool
pg_shadow 12005 v: usename name, usesysid oid, usecreatedb bool, usesuper bool, userepl bool,
    usebypassrls bool, passwd text, valuntil timestamptz, useconfig _text
pg_shdepend 1214 r: dbid oid!, classid oid!, objid oid!, objsubid int4!, refclassid oid!, refobjid
    oid!, deptype char!
pg_shdescription 2396 r: objoid oid!, classoid oid!, description text!
pg_shseclabel 3592 r: objoid oid!, classoid oid!, provider text!, label text!
pg_stat_user_tables 12161 v: relid oid, schemaname name, relname name, seq_scan int8, seq_tup_read
    int8, idx_scan int8, idx_tup_fetch int8, n_tup_ins int8, n_tup_upd int8, n_tup_del int8,
    n_tup_hot_upd int8, n_live_tup int8, n_dead_tup int8, n_mod_since_analyze int8,
    n_ins_since_vacuum int8, last_vacuum timestamptz, last_autovacuum timestamptz, last_analyze
    timestamptz, last_autoanalyze timestamptz, vacuum_count int8, autovacuum_count int8,
    analyze_count int8, autoanalyze_count int8
pg_statistic_ext 3381 r: oid oid!, stxrelid oid!, stxname name!, stxnamespace oid!, stxowner oid!,
    stxstattarget int2!, stxkeys int2vector!, stxkind _char!, stxexprs pg_node_tree
pg_subscription 6100 r: oid oid!, subdbid oid!, subskiplsn pg_lsn!, subname name!, subowner oid!,
    subenabled bool!, subbinary bool!, substream char!, subtwophasestate char!, subdisableonerr
    bool!, subpasswordrequired bool!, subrunasowner bool!, subconninfo text!, subslotname name,
    subsynccommit text!, subpublications _text!, suborigin text
pg_subscription_rel 6102 r: srsubid oid!, srrelid oid!, srsubstate char!, srsublsn pg_lsn
pg_tables 12033 v: schemaname name, tablename name, tableowner name, tablespace name, hasindexes
    bool, hasrules bool, hastriggers bool, rowsecurity bool
pg_tablespace 1213 r: oid oid!, spcname name!, spcowner oid!, spcacl _aclitem, spcoptions _text
pg_transform 3576 r: oid oid!, trftype oid!, trflang oid!, trffromsql regproc!, trftosql regproc!
pg_trigger 2620 r: oid oid!, tgrelid oid!, tgparentid oid!, tgname name!, tgfoid oid!, tgtype
    int2!, tgenabled char!, tgisinternal bool!, tgconstrrelid oid!, tgconstrindid oid!,
    tgconstraint oid!, tgdeferrable bool!, tginitdeferred bool!, tgnargs int2!, tgattr
    int2vector!, tgargs bytea!, tgqual pg_node_tree, tgoldtable name, tgnewtable name
pg_ts_config 3602 r: oid oid!, cfgname name!, cfgnamespace oid!, cfgowner oid!, cfgparser oid!
pg_ts_config_map 3603 r: mapcfg oid!, maptokentype int4!, mapseqno int4!, mapdict oid!
pg_ts_dict 3600 r: oid oid!, dictname name!, dictnamespace oid!, dictowner oid!, dicttemplate
    oid!, dictinitoption text
pg_ts_parser 3601 r: oid oid!, prsname name!, prsnamespace oid!, prsstart regproc!, prstoken
    regproc!, prsend regproc!, prsheadline regproc!, prslextype regproc!
pg_ts_template 3764 r: oid oid!, tmplname name!, tmplnamespace oid!, tmplinit regproc!, tmpllexize
    regproc!
pg_type 1247 r: oid oid!, typname name!, typnamespace oid!, typowner oid!, typlen int2!, typbyval
    bool!, typtype char!, typcategory char!, typispreferred bool!, typisdefined bool!, typdelim
    char!, typrelid oid!, typsubscript regproc!, typelem oid!, typarray oid!, typinput regproc!,
    typoutput regproc!, typreceive regproc!, typsend regproc!, typmodin regproc!, typmodout
    regproc!, typanalyze regproc!, typalign char!, typstorage char!, typnotnull bool!, typbasetype
    oid!, typtypmod int4!, typndims int4!, typcollation oid!, typdefaultbin pg_node_tree,
    typdefault text, typacl _aclitem
pg_user 12014 v: usename name, usesysid oid, usecreatedb bool, usesuper bool, userepl bool,
    usebypassrls bool, passwd text, valuntil timestamptz, useconfig _text
pg_user_mapping 1418 r: oid oid!, umuser oid!, umserver oid!, umoptions _text
pg_user_mappings 12327 v: umid oid, srvid oid, srvname name, umuser oid, usename name, umoptions
    _text
pg_views 12028 v: schemaname name, viewname name, viewowner name, definition text
";

/// The tables of `information_schema`, in the same notation.
const INFORMATION_SCHEMA: &str = "\
check_constraints 13260 v: constraint_catalog name, constraint_schema name, constraint_name name,
    check_clause varchar
columns 13295 v: table_catalog name, table_schema name, table_name name, column_name name,
    ordinal_position int4, column_default varchar, is_nullable varchar, data_type varchar,
    character_maximum_length int4, character_octet_length int4, numeric_precision int4,
    numeric_precision_radix int4, numeric_scale int4, datetime_precision int4, interval_type
    varchar, interval_precision int4, character_set_catalog name, character_set_schema name,
    character_set_name name, collation_catalog name, collation_schema name, collation_name name,
    domain_catalog name, domain_schema name, domain_name name, udt_catalog name, udt_schema name,
    udt_name name, scope_catalog name, scope_schema name, scope_name name, maximum_cardinality
    int4, dtd_identifier name, is_self_referencing varchar, is_identity varchar,
    identity_generation varchar, identity_start varchar, identity_increment varchar,
    identity_maximum varchar, identity_minimum varchar, identity_cycle varchar, is_generated
    varchar, generation_expression varchar, is_updatable varchar
constraint_column_usage 13300 v: table_catalog name, table_schema name, table_name name,
    column_name name, constraint_catalog name, constraint_schema name, constraint_name name
constraint_table_usage 13305 v: table_catalog name, table_schema name, table_name name,
    constraint_catalog name, constraint_schema name, constraint_name name
domains 13320 v: domain_catalog name, domain_schema name, domain_name name, data_type varchar,
    character_maximum_length int4, character_octet_length int4, character_set_catalog name,
    character_set_schema name, character_set_name name, collation_catalog name, collation_schema
    name, collation_name name, numeric_precision int4, numeric_precision_radix int4, numeric_scale
    int4, datetime_precision int4, interval_type varchar, interval_precision int4, domain_default
    varchar, udt_catalog name, udt_schema name, udt_name name, scope_catalog name, scope_schema
    name, scope_name name, maximum_cardinality int4, dtd_identifier name
element_types 13493 v: object_catalog name, object_schema name, object_name name, object_type
    varchar, collection_type_identifier name, data_type varchar, character_maximum_length int4,
    character_octet_length int4, character_set_catalog name, character_set_schema name,
    character_set_name name, collation_catalog name, collation_schema name, collation_name name,
    numeric_precision int4, numeric_precision_radix int4, numeric_scale int4, datetime_precision
    int4, interval_type varchar, interval_precision int4, domain_default varchar, udt_catalog
    name, udt_schema name, udt_name name, scope_catalog name, scope_schema name, scope_name name,
    maximum_cardinality int4, dtd_identifier name
information_schema_catalog_name 13227 v: catalog_name name
key_column_usage 13329 v: constraint_catalog name, constraint_schema name, constraint_name name,
    table_catalog name, table_schema name, table_name name, column_name name, ordinal_position
    int4, position_in_unique_constraint int4
parameters 13334 v: specific_catalog name, specific_schema name, specific_name name,
    ordinal_position int4, parameter_mode varchar, is_result varchar, as_locator varchar,
    parameter_name name, data_type varchar, character_maximum_length int4, character_octet_length
    int4, character_set_catalog name, character_set_schema name, character_set_name name,
    collation_catalog name, collation_schema name, collation_name name, numeric_precision int4,
    numeric_precision_radix int4, numeric_scale int4, datetime_precision int4, interval_type
    varchar, interval_precision int4, udt_catalog name, udt_schema name, udt_name name,
    scope_catalog name, scope_schema name, scope_name name, maximum_cardinality int4,
    dtd_identifier name, parameter_default varchar
referential_constraints 13339 v: constraint_catalog name, constraint_schema name, constraint_name
    name, unique_constraint_catalog name, unique_constraint_schema name, unique_constraint_name
    name, match_option varchar, update_rule varchar, delete_rule varchar
routines 13377 v: specific_catalog name, specific_schema name, specific_name name, routine_catalog
    name, routine_schema name, routine_name name, routine_type varchar, module_catalog name,
    module_schema name, module_name name, udt_catalog name, udt_schema name, udt_name name,
    data_type varchar, character_maximum_length int4, character_octet_length int4,
    character_set_catalog name, character_set_schema name, character_set_name name,
    collation_catalog name, collation_schema name, collation_name name, numeric_precision int4,
    numeric_precision_radix int4, numeric_scale int4, datetime_precision int4, interval_type
    varchar, interval_precision int4, type_udt_catalog name, type_udt_schema name, type_udt_name
    name, scope_catalog name, scope_schema name, scope_name name, maximum_cardinality int4,
    dtd_identifier name, routine_body varchar, routine_definition varchar, external_name varchar,
    external_language varchar, parameter_style varchar, is_deterministic varchar, sql_data_access
    varchar, is_null_call varchar, sql_path varchar, schema_level_routine varchar,
    max_dynamic_result_sets int4, is_user_defined_cast varchar, is_implicitly_invocable varchar,
    security_type varchar, to_sql_specific_catalog name, to_sql_specific_schema name,
    to_sql_specific_name name, as_locator varchar, created timestamptz, last_altered timestamptz,
    new_savepoint_level varchar, is_udt_dependent varchar, result_cast_from_data_type varchar,
    result_cast_as_locator varchar, result_cast_char_max_length int4,
    result_cast_char_octet_length int4, result_cast_char_set_catalog name,
    result_cast_char_set_schema name, result_cast_char_set_name name,
    result_cast_collation_catalog name, result_cast_collation_schema name,
    result_cast_collation_name name, result_cast_numeric_precision int4,
    result_cast_numeric_precision_radix int4, result_cast_numeric_scale int4,
    result_cast_datetime_precision int4, result_cast_interval_type varchar,
    result_cast_interval_precision int4, result_cast_type_udt_catalog name,
    result_cast_type_udt_schema name, result_cast_type_udt_name name, result_cast_scope_catalog
    name, result_cast_scope_schema name, result_cast_scope_name name,
    result_cast_maximum_cardinality int4, result_cast_dtd_identifier name
schemata 13382 v: catalog_name name, schema_name name, schema_owner name,
    default_character_set_catalog name, default_character_set_schema name,
    default_character_set_name name, sql_path varchar
sequences 13386 v: sequence_catalog name, sequence_schema name, sequence_name name, data_type
    varchar, numeric_precision int4, numeric_precision_radix int4, numeric_scale int4, start_value
    varchar, minimum_value varchar, maximum_value varchar, increment varchar, cycle_option varchar
table_constraints 13411 v: constraint_catalog name, constraint_schema name, constraint_name name,
    table_catalog name, table_schema name, table_name name, constraint_type varchar, is_deferrable
    varchar, initially_deferred varchar, enforced varchar, nulls_distinct varchar
table_privileges 13416 v: grantor name, grantee name, table_catalog name, table_schema name,
    table_name name, privilege_type varchar, is_grantable varchar, with_hierarchy varchar
tables 13425 v: table_catalog name, table_schema name, table_name name, table_type varchar,
    self_referencing_column_name name, reference_generation varchar, user_defined_type_catalog
    name, user_defined_type_schema name, user_defined_type_name name, is_insertable_into varchar,
    is_typed varchar, commit_action varchar
triggers 13440 v: trigger_catalog name, trigger_schema name, trigger_name name, event_manipulation
    varchar, event_object_catalog name, event_object_schema name, event_object_table name,
    action_order int4, action_condition varchar, action_statement varchar, action_orientation
    varchar, action_timing varchar, action_reference_old_table name, action_reference_new_table
    name, action_reference_old_row name, action_reference_new_row name, created timestamptz
views 13483 v: table_catalog name, table_schema name, table_name name, view_definition varchar,
    check_option varchar, is_updatable varchar, is_insertable_into varchar, is_trigger_updatable
    varchar, is_trigger_deletable varchar, is_trigger_insertable_into varchar
";

/// A table of the catalogue without its rows: its name and columns.
#[derive(Clone, Debug)]
pub(crate) struct TableSpec {
    pub(crate) name: String,
    pub(crate) oid: u32,
    /// `r` for a table, `v` for a view.
    pub(crate) kind: char,
    pub(crate) schema: SchemaRef,
}

/// The tables of `pg_catalog`.
pub(crate) fn pg_catalog() -> Vec<TableSpec> {
    tables(PG_CATALOG)
}

/// The tables of `information_schema`.
pub(crate) fn information_schema() -> Vec<TableSpec> {
    tables(INFORMATION_SCHEMA)
}

fn tables(text: &str) -> Vec<TableSpec> {
    let mut tables: Vec<String> = Vec::new();
    for line in text.lines() {
        match tables.last_mut() {
            // An indented line continues the table before.
            Some(table) if line.starts_with(' ') => {
                table.push(' ');
                table.push_str(line.trim());
            }
            _ => tables.push(line.to_owned()),
        }
    }
    tables.iter().map(|table| parse(table)).collect()
}

fn parse(table: &str) -> TableSpec {
    let (head, columns) = table.split_once(": ").expect("a head and columns");
    let head: Vec<&str> = head.split(' ').collect();
    let [name, oid, kind] = head.as_slice() else { panic!("the head of {table}") };
    let fields = columns.split(", ").map(|column| {
        let (name, type_name) = column.split_once(' ').expect("a name and a type");
        let (type_name, is_nullable) = match type_name.strip_suffix('!') {
            Some(type_name) => (type_name, false),
            None => (type_name, true),
        };
        let it = types::by_name(type_name).unwrap_or_else(|| panic!("no type {type_name} of {name}"));
        types::marked(Field::new(name, types::arrow_type(it), is_nullable), type_name)
    });
    TableSpec {
        name: (*name).to_owned(),
        oid: oid.parse().expect("an oid"),
        kind: kind.chars().next().expect("a kind"),
        schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_table_has_an_oid_of_its_own_below_those_of_users() {
        let all: Vec<TableSpec> = pg_catalog().into_iter().chain(information_schema()).collect();
        let oids: BTreeSet<u32> = all.iter().map(|table| table.oid).collect();
        assert_eq!(oids.len(), all.len());
        assert!(oids.iter().all(|oid| *oid < super::super::oids::FIRST_USER_OID));
    }

    #[test]
    fn columns_have_their_types_and_places() {
        let tables = pg_catalog();
        let class = tables.iter().find(|table| table.name == "pg_class").expect("it is there");
        assert_eq!((class.oid, class.kind, class.schema.fields().len()), (1259, 'r', 33));
        let oid = class.schema.field(0);
        assert_eq!((oid.name().as_str(), types::oid_of(oid)), ("oid", types::oid::OID));
        let tables = information_schema();
        let columns = tables.iter().find(|table| table.name == "columns").expect("it is there");
        assert_eq!(columns.schema.fields().len(), 44);
    }
}
